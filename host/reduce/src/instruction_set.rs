//! Which instructions the kernels are compiled to, chosen once at run time. The crate's only unsafe code.

use std::fmt;
use std::sync::OnceLock;

use crate::kernel::{self, Element, Finish};

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

    /// [`kernel::reduce`] with these instructions.
    pub(crate) fn reduce(self, first: &[Element], others: &[&[u8]], finish: Finish, out: &mut [f32]) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(avx512) => avx512.reduce(first, others, finish, out),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => avx2.reduce(first, others, finish, out),
            Kind::Portable => kernel::reduce(first, others, finish, out),
        }
    }

    /// [`kernel::all_finite`] with these instructions.
    pub(crate) fn all_finite(self, values: &[Element]) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(avx512) => avx512.all_finite(values),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => avx2.all_finite(values),
            Kind::Portable => kernel::all_finite(values),
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
    use super::{Element, Finish, kernel};

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

        pub(super) fn reduce(self, first: &[Element], others: &[&[u8]], finish: Finish, out: &mut [f32]) {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn compiled(first: &[Element], others: &[&[u8]], finish: Finish, out: &mut [f32]) {
                kernel::reduce(first, others, finish, out);
            }
            // SAFETY: a value of this type exists only where `new` has detected all four features.
            unsafe { compiled(first, others, finish, out) }
        }

        pub(super) fn all_finite(self, values: &[Element]) -> bool {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn compiled(values: &[Element]) -> bool {
                kernel::all_finite(values)
            }
            // SAFETY: a value of this type exists only where `new` has detected all four features.
            unsafe { compiled(values) }
        }
    }

    /// Proof that this machine has AVX2.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Avx2(());

    impl Avx2 {
        /// `None` where the processor, or the operating system, lacks it.
        pub(super) fn new() -> Option<Self> {
            is_x86_feature_detected!("avx2").then_some(Self(()))
        }

        pub(super) fn reduce(self, first: &[Element], others: &[&[u8]], finish: Finish, out: &mut [f32]) {
            #[target_feature(enable = "avx2")]
            fn compiled(first: &[Element], others: &[&[u8]], finish: Finish, out: &mut [f32]) {
                kernel::reduce(first, others, finish, out);
            }
            // SAFETY: a value of this type exists only where `new` has detected the feature.
            unsafe { compiled(first, others, finish, out) }
        }

        pub(super) fn all_finite(self, values: &[Element]) -> bool {
            #[target_feature(enable = "avx2")]
            fn compiled(values: &[Element]) -> bool {
                kernel::all_finite(values)
            }
            // SAFETY: a value of this type exists only where `new` has detected the feature.
            unsafe { compiled(values) }
        }
    }
}
