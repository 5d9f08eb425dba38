//! The terms under which components are compiled, as a broker and its workers are told when they are started.
//!
//! They are arguments and nothing that a request could carry: a server that is taken over has components compiled under the
//! terms that it was started with, and no others.

use std::ffi::OsString;

use super::{CompilerLimits, Confinement};

/// What a worker may take, and what it must give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) limits: CompilerLimits,
    pub(super) confinement: Confinement,
}

impl Terms {
    /// As arguments of a program.
    pub(super) fn arguments(&self) -> [String; 5] {
        let CompilerLimits { memory_bytes, processor_seconds, deadline_milliseconds, code_bytes } = self.limits;
        let [memory, processor, deadline, code] =
            [memory_bytes, processor_seconds, deadline_milliseconds, code_bytes].map(|number| number.to_string());
        [memory, processor, deadline, code, self.confinement.name().to_owned()]
    }

    /// From [`Terms::arguments`]. `None` where they are not that, or a limit is out of range.
    pub(super) fn from_arguments(arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let arguments: Vec<String> = arguments.map(|argument| argument.into_string().ok()).collect::<Option<_>>()?;
        let [memory, processor, deadline, code, confinement] = &arguments[..] else { return None };
        let limits = CompilerLimits {
            memory_bytes: memory.parse().ok()?,
            processor_seconds: processor.parse().ok()?,
            deadline_milliseconds: deadline.parse().ok()?,
            code_bytes: code.parse().ok()?,
        };
        let terms = Self { limits, confinement: Confinement::from_name(confinement)? };
        limits.out_of_range().is_none().then_some(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_come_back_and_what_is_none_is_refused() {
        let limits = CompilerLimits::default();
        for confinement in [Confinement::Try, Confinement::Require] {
            let terms = Terms { limits, confinement };
            let read = |arguments: &[String]| Terms::from_arguments(arguments.iter().map(OsString::from));
            let mut arguments = terms.arguments().to_vec();
            assert_eq!(read(&arguments), Some(terms));
            assert_eq!(read(&arguments[..4]), None);
            arguments[0] = "1".to_owned();
            assert_eq!(read(&arguments), None, "no compiler gets by with so little");
        }
    }
}
