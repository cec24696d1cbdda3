//! Reading Rust as text: enough to find paths and test names without a parser.

use std::collections::BTreeSet;

/// The code with the contents of comments and literals blanked; lines stay where they are.
pub(super) fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let blank = |out: &mut String, from: usize, to: usize| {
        out.extend(chars[from..to.min(chars.len())].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    };
    while i < chars.len() {
        let end = match chars[i] {
            '/' if chars.get(i + 1) == Some(&'/') => line_end(&chars, i),
            '/' if chars.get(i + 1) == Some(&'*') => block_end(&chars, i),
            'r' if !(i > 0 && chars[i - 1] != 'b' && is_ident(chars[i - 1])) => raw_string_end(&chars, i),
            '"' => quoted_end(&chars, i, '"'),
            // A lifetime has no closing quote two characters on.
            '\'' if chars.get(i + 1) == Some(&'\\') || chars.get(i + 2) == Some(&'\'') => quoted_end(&chars, i, '\''),
            _ => i,
        };
        if end > i {
            blank(&mut out, i, end);
            i = end;
        } else {
            out.push(chars[i]);
            i += 1;
        }
    }
    out
}

fn line_end(chars: &[char], from: usize) -> usize {
    (from..chars.len()).find(|i| chars[*i] == '\n').unwrap_or(chars.len())
}

fn block_end(chars: &[char], from: usize) -> usize {
    let mut depth = 0;
    let mut i = from;
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], from: usize, quote: char) -> usize {
    let mut i = from + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            c if c == quote => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// The end of the raw string that begins here, or `from` if none does.
fn raw_string_end(chars: &[char], from: usize) -> usize {
    let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(from + 1 + hashes) != Some(&'"') {
        return from;
    }
    let closes = |i: usize| chars[i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
    (from + 2 + hashes..chars.len()).find(|i| closes(*i)).map_or(chars.len(), |i| i + 1 + hashes)
}

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `path` occurs as a path or name of its own, not as part of a longer one.
pub(super) fn occurrences<'a>(code: &'a str, path: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(path).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back();
        let after = code[*at + path.len()..].chars().next();
        let open_end = path.ends_with(is_ident) && after.is_some_and(is_ident);
        !before.is_some_and(|c| is_ident(c) || c == ':') && !open_end
    })
}

/// The first segments that follow `prefix` (`crate::`), those of a group in braces included.
pub(super) fn first_segments(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for at in occurrences(code, prefix) {
        let rest = code[at + prefix.len()..].trim_start();
        let Some(group) = rest.strip_prefix('{') else {
            found.extend(segment(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    found.extend(segment(&group[start..i]));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.extend(segment(&group[start..i]));
                    start = i + 1;
                }
                _ => {}
            }
        }
    }
    found
}

/// The name a path begins with; none for a macro, which lives at the root of its crate.
fn segment(path: &str) -> Option<String> {
    let name: String = path.trim_start().chars().take_while(|c| is_ident(*c)).collect();
    let is_macro = path.trim_start()[name.len()..].starts_with('!');
    (!name.is_empty() && !is_macro).then_some(name)
}

/// The code without its `#[cfg(test)] mod tests`, which by convention is last.
pub(super) fn without_tests(code: &str) -> &str {
    code.find("#[cfg(test)]\nmod tests").map_or(code, |at| &code[..at])
}

/// The names of the tests in `code`.
pub(super) fn test_names(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut pending = false;
    for line in code.lines().map(str::trim) {
        pending |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        if !pending {
            continue;
        }
        if let Some((_, rest)) = line.split_once("fn ") {
            names.push(rest.chars().take_while(|c| is_ident(*c)).collect());
            pending = false;
        }
    }
    names
}

#[test]
fn comments_and_literals_are_not_code() {
    let code = code_of("a // crate::x\nb /* /* y */ z */ \"crate::\\\"q\" r#\"\"k\"# 'c' '\\'' <'life> d");
    for gone in ["crate", "y", "z", "q", "k", "c'"] {
        assert!(!code.contains(gone), "{gone} in {code}");
    }
    assert!(code.contains("<'life> d") && code.lines().count() == 2);
}

#[test]
fn paths_are_found_in_groups_too() {
    let found =
        first_segments("use crate::{a::{B, c}, d, e as f}; crate::g::h(); my_crate::i(); crate::j!()", "crate::");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "d", "e", "g"]);
}

#[test]
fn a_test_is_named_by_the_function_below_its_attribute() {
    assert_eq!(
        test_names("#[test]\nfn one() {}\nfn two() {}\n#[tokio::test]\n#[x]\nasync fn three() {}"),
        ["one", "three"]
    );
}
