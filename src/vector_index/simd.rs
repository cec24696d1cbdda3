//! Which vector instructions the processor has.

use std::sync::OnceLock;

/// A set of vector instructions that the kernels are compiled for.
///
/// A value other than [`Simd::PORTABLE`] can only be had from [`Simd::detect`], or by downgrading one: it is the proof
/// that the processor has these instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simd(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// What every processor of the target has.
    Portable,
    /// AVX2, FMA and POPCNT.
    Avx2,
    /// AVX-512 F, BW, DQ, VL, VBMI and VPOPCNTDQ, besides what [`Level::Avx2`] has.
    Avx512,
}

impl Simd {
    /// What every processor of the target has.
    pub const PORTABLE: Self = Self(Level::Portable);

    /// The best that this processor has; looked up once.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Simd> = OnceLock::new();
        *DETECTED.get_or_init(|| Self(detect()))
    }

    /// All sets that this processor has, the portable one first: for tests and measurements.
    pub fn all() -> Vec<Self> {
        let levels = [Level::Portable, Level::Avx2, Level::Avx512];
        levels.into_iter().filter(|level| *level <= Self::detect().0).map(Self).collect()
    }

    pub(crate) fn level(self) -> Level {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 =
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("popcnt");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vpopcntdq");
    match (avx2, avx512) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

/// Defines a function that calls a generic body compiled for the instructions that a [`Simd`] stands for.
///
/// The body is `#[inline(always)]` and takes `const WIDE: usize` (how many vector registers' worth of bytes to work on at
/// once does not matter to the macro) as its first generic argument: 0 portable, 1 AVX2, 2 AVX-512.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        #[inline]
        $vis fn $name(simd: $crate::vector_index::simd::Simd, $($arg: $type),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,popcnt")]
                fn avx2($($arg: $type),*) $(-> $ret)? {
                    $body::<1>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vpopcntdq")]
                fn avx512($($arg: $type),*) $(-> $ret)? {
                    $body::<2>($($arg),*)
                }
                match simd.level() {
                    // SAFETY: `simd` proves that the processor has these instructions.
                    $crate::vector_index::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::vector_index::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::vector_index::simd::Level::Portable => {}
                }
            }
            let _ = simd;
            $body::<0>($($arg),*)
        }
    };
}
pub(crate) use dispatch;
