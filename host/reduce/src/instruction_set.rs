//! Which instructions the kernels are compiled to, chosen once at run time. The crate's only unsafe code.

use std::fmt;
use std::sync::OnceLock;

use crate::kernel::{Arithmetically, Kernel};

/// A set of instructions that this machine has been seen to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstructionSet(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512(x86_64::Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(x86_64::Avx2),
    Portable,
}

impl InstructionSet {
    /// The widest one of this machine, which is what the crate's functions use.
    pub fn best() -> Self {
        static BEST: OnceLock<InstructionSet> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().next().expect("the portable one is always there"))
    }

    /// All of this machine, widest first.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let special = [x86_64::Avx512::new().map(Kind::Avx512), x86_64::Avx2::new().map(Kind::Avx2)];
        #[cfg(not(target_arch = "x86_64"))]
        let special: [Option<Kind>; 0] = [];
        special.into_iter().flatten().chain([Kind::Portable]).map(Self)
    }

    /// Its name, such as `avx512`. `portable` is what every processor of this architecture has, SSE2 or NEON.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            Kind::Portable => "portable",
        }
    }

    /// Runs a kernel with these instructions.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(avx512) => avx512.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => avx2.run(kernel),
            Kind::Portable => kernel.run(Arithmetically),
        }
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::{__m128i, __m256, __m256i, __m512, _mm256_cvtph_ps, _mm512_cvtph_ps};
    use std::mem::transmute;

    use crate::kernel::{Half, Kernel, WIDENED, Widen};

    /// Proof that this machine has AVX-512 as server processors have had it since 2017: F, BW, DQ and VL.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Avx512(());

    impl Avx512 {
        /// `None` where the processor, or the operating system, lacks it.
        pub(super) fn new() -> Option<Self> {
            let detected = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            detected.then_some(Self(()))
        }

        pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn compiled<K: Kernel>(kernel: K, avx512: Avx512) -> K::Output {
                kernel.run(avx512)
            }
            // SAFETY: a value of this type exists only where `new` has detected all four features.
            unsafe { compiled(kernel, self) }
        }
    }

    impl Widen for Avx512 {
        #[inline(always)]
        fn f16(self, values: &[Half; WIDENED]) -> [f32; WIDENED] {
            #[target_feature(enable = "avx512f")]
            #[inline]
            fn converted(values: &[Half; WIDENED]) -> [f32; WIDENED] {
                // SAFETY: both types have 32 bytes, and any bytes are a value of either.
                let halves = unsafe { transmute::<[Half; WIDENED], __m256i>(*values) };
                // SAFETY: both types are 16 `f32`s.
                unsafe { transmute::<__m512, [f32; WIDENED]>(_mm512_cvtph_ps(halves)) }
            }
            // SAFETY: a value of this type exists only where `new` has detected the feature.
            unsafe { converted(values) }
        }
    }

    /// Proof that this machine has AVX2, and F16C, which all processors with AVX2 have.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Avx2(());

    impl Avx2 {
        /// `None` where the processor, or the operating system, lacks it.
        pub(super) fn new() -> Option<Self> {
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")).then_some(Self(()))
        }

        pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
            #[target_feature(enable = "avx2,f16c")]
            fn compiled<K: Kernel>(kernel: K, avx2: Avx2) -> K::Output {
                kernel.run(avx2)
            }
            // SAFETY: a value of this type exists only where `new` has detected both features.
            unsafe { compiled(kernel, self) }
        }
    }

    impl Widen for Avx2 {
        #[inline(always)]
        fn f16(self, values: &[Half; WIDENED]) -> [f32; WIDENED] {
            #[target_feature(enable = "f16c")]
            #[inline]
            fn converted(values: &[Half; WIDENED]) -> [f32; WIDENED] {
                // SAFETY: both types have 32 bytes, and any bytes are a value of either.
                let [low, high] = unsafe { transmute::<[Half; WIDENED], [__m128i; 2]>(*values) };
                // SAFETY: both types are 16 `f32`s.
                unsafe { transmute::<[__m256; 2], [f32; WIDENED]>([_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]) }
            }
            // SAFETY: a value of this type exists only where `new` has detected the feature.
            unsafe { converted(values) }
        }
    }
}
