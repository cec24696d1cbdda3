//! How often and how fast something that failed is tried again.

use std::time::Duration;

/// Attempts with exponentially growing pauses between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often to try, the first time included; at least once.
    pub attempts: u32,
    /// The pause after the first attempt; each later one is twice as long.
    pub base: Duration,
    /// The longest pause.
    pub cap: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, base: Duration::from_millis(20), cap: Duration::from_secs(2) }
    }
}

impl Retry {
    /// Whether there is another attempt after attempt `n`, counted from 1.
    pub fn again_after(&self, n: u32) -> bool {
        n < self.attempts
    }

    /// The pause after attempt `n`, counted from 1.
    pub fn pause_after(&self, n: u32) -> Duration {
        self.base.saturating_mul(1u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX)).min(self.cap)
    }

    /// Waits for the pause after attempt `n`.
    pub async fn pause(&self, n: u32) {
        tokio::time::sleep(self.pause_after(n)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap() {
        let retry = Retry::default();
        let pauses: Vec<_> = (1..=9).map(|n| retry.pause_after(n).as_millis()).collect();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1280, 2000, 2000]);
        assert_eq!(retry.pause_after(1000), retry.cap);
        assert!(retry.again_after(5) && !retry.again_after(6));
    }
}
