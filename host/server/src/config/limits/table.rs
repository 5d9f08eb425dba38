//! The limits as an operator is shown them.

use serde::{Serialize, Serializer};
use stepbox_sandbox::{CompilerLimits, ComponentLimits, Limits as SandboxLimits, SandboxConfig};

use super::Limits;
use crate::config::{
    AuditConfig, CacheConfig, Config, DEFAULT_RECONNECT_GRACE_SECONDS, DEFAULT_RELOAD_SECONDS,
    DEFAULT_ROUND_TIMEOUT_SECONDS, DEFAULT_TRUST_RELOAD_SECONDS, Seconds,
};

/// A limit of the configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// The section it is in, such as `sandbox.limits`.
    pub section: &'static str,
    /// The field.
    pub name: &'static str,
    /// What is in force.
    pub value: Number,
    /// What would be unless it were set.
    pub default: Number,
    /// What is counted, such as `B` or `1/s`.
    pub unit: &'static str,
    /// Why it is what it is, and what happens at it.
    pub reason: &'static str,
}

/// A limit's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A whole number.
    Count(u64),
    /// A time in seconds.
    Seconds(f64),
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Count(count) => serializer.serialize_u64(count),
            Self::Seconds(seconds) => serializer.serialize_f64(seconds),
        }
    }
}

/// A field's type.
pub(super) trait Setting: Copy {
    /// The type of its constant.
    type Constant;

    fn from_constant(constant: Self::Constant) -> Self;

    fn number(self) -> Number;
}

macro_rules! counts {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            type Constant = $type;

            fn from_constant(constant: $type) -> Self {
                constant
            }

            fn number(self) -> Number {
                Number::Count(self as u64)
            }
        }
    )*};
}

counts!(u32, u64, usize);

impl Setting for Seconds {
    type Constant = f64;

    fn from_constant(constant: f64) -> Self {
        Self::from_constant(constant)
    }

    fn number(self) -> Number {
        Number::Seconds(self.duration().as_secs_f64())
    }
}

/// All limits that the configuration can set, as they are in it, or as they are unless set.
pub fn limits_in_force(config: Option<&Config>) -> Vec<Limit> {
    let (limits, sandbox, cache);
    let (limits, sandbox, cache) = match config {
        Some(config) => (&config.limits, &config.sandbox, &config.cache),
        None => {
            (limits, sandbox, cache) = (Limits::default(), SandboxConfig::default(), CacheConfig::default());
            (&limits, &sandbox, &cache)
        }
    };
    let mut all: Vec<Limit> = limits.list().collect();
    all.extend(of_job(config));
    all.extend(of_sandbox(&sandbox.limits));
    all.extend(of_components(&sandbox.component));
    all.extend(of_compiler(&config.map(|config| config.compiler).unwrap_or_default()));
    all.extend(of_cache(cache));
    all.extend(of_audit(config.map(|config| &config.audit)));
    all.extend(of_files(config));
    all
}

fn of_components(limits: &ComponentLimits) -> impl Iterator<Item = Limit> {
    let defaults = ComponentLimits::default();
    let defaults: Vec<u64> = defaults.entries().map(|(_, default, ..)| default).collect();
    limits.entries().zip(defaults).map(|((name, value, unit, reason), default)| {
        let (value, default) = (Number::Count(value), Number::Count(default));
        Limit { section: "sandbox.component", name, value, default, unit, reason }
    })
}

fn of_files(config: Option<&Config>) -> [Limit; 2] {
    let limit = |section, set: Option<Seconds>, default, reason| {
        let default = Seconds::from_constant(default);
        let (value, default) = (set.unwrap_or(default).number(), default.number());
        Limit { section, name: "reload_seconds", value, default, unit: "s", reason }
    };
    [
        limit(
            "trust",
            config.map(|config| config.trust.reload_seconds),
            DEFAULT_TRUST_RELOAD_SECONDS,
            "How often the trust file is looked at: a revocation takes effect within it, and looking costs microseconds.",
        ),
        limit(
            "tls",
            config.map(|config| config.tls.reload_seconds),
            DEFAULT_RELOAD_SECONDS,
            "How often certificates, revocation lists and rights are looked at: a revocation takes effect within it.",
        ),
    ]
}

fn of_job(config: Option<&Config>) -> [Limit; 2] {
    // Of several jobs each has its own; the one of [job] is shown.
    let job = config.and_then(|config| config.job.as_ref());
    let times = job.map(|job| (job.round_timeout_seconds, job.reconnect_grace_seconds));
    let default = |seconds| Seconds::from_constant(seconds);
    let (timeout, grace) = (default(DEFAULT_ROUND_TIMEOUT_SECONDS), default(DEFAULT_RECONNECT_GRACE_SECONDS));
    let (timeout_set, grace_set) = times.unwrap_or((timeout, grace));
    let limit = |name, set: Seconds, default: Seconds, reason| {
        let (value, default) = (set.number(), default.number());
        Limit { section: "job", name, value, default, unit: "s", reason }
    };
    [
        limit(
            "round_timeout_seconds",
            timeout_set,
            timeout,
            "Seconds that a pull, a barrier or the first value of a key waits for other workers. A round of a large \
             model takes seconds; after a minute somebody should look.",
        ),
        limit(
            "reconnect_grace_seconds",
            grace_set,
            grace,
            "Seconds that a worker whose connection broke has to come back before those who wait for it are told that \
             it is lost: enough for a connection that was reset.",
        ),
    ]
}

fn of_sandbox(limits: &SandboxLimits) -> [Limit; 12] {
    // Without `..`: a limit that is added there is missing here until it is named.
    let read = |limits: &SandboxLimits| {
        let SandboxLimits {
            call_deadline_milliseconds,
            whole_tensor_deadline_milliseconds,
            fuel_per_element,
            call_fuel,
            preparation_fuel,
            preparation_deadline_milliseconds,
            instance_memory_bytes,
            guest_overhead_bytes,
            total_memory_bytes,
            table_elements,
            stack_bytes,
            block_elements,
        } = *limits;
        [
            call_deadline_milliseconds,
            whole_tensor_deadline_milliseconds,
            fuel_per_element,
            call_fuel,
            preparation_fuel,
            preparation_deadline_milliseconds,
            instance_memory_bytes,
            guest_overhead_bytes,
            total_memory_bytes,
            table_elements,
            stack_bytes,
            block_elements.into(),
        ]
    };
    let about = [
        (
            "call_deadline_milliseconds",
            "ms",
            "Time of one call into a component, which handles one block in well under a millisecond: room for a busy \
             machine.",
        ),
        (
            "whole_tensor_deadline_milliseconds",
            "ms",
            "Time of one call that visits a whole tensor: matrix methods on large matrices take seconds.",
        ),
        (
            "fuel_per_element",
            "fuel",
            "Fuel of a step for each element: AdamW uses about 8, matrix methods hundreds. After the trial run steps have \
             four times what they used there, and never more than this.",
        ),
        ("call_fuel", "fuel", "Fuel of calls whose work does not grow with the tensor, about 10 ms."),
        (
            "preparation_fuel",
            "fuel",
            "Fuel of all calls that plan and bind for one deployment, or one new key, together: about four seconds of one \
             core. Ours use some thousand units for each call.",
        ),
        (
            "preparation_deadline_milliseconds",
            "ms",
            "Time to plan and bind for one deployment, or one new key: ten gigabytes of fresh memory take some ten \
             seconds, and longer on a machine that is busy training.",
        ),
        (
            "instance_memory_bytes",
            "B",
            "Linear memory of one instance: all that a 32-bit memory has, less a page. A shard opens another one when \
             its slices no longer fit.",
        ),
        (
            "guest_overhead_bytes",
            "B",
            "Memory of an instance beyond what the server placed there: stack, allocator, records.",
        ),
        ("total_memory_bytes", "B", "Linear memory of all instances together; lower it on small machines."),
        ("table_elements", "elements", "Elements of an instance's tables: a Rust component needs a few hundred."),
        ("stack_bytes", "B", "WebAssembly stack: optimizers do not recurse; half of wasmtime's default."),
        (
            "block_elements",
            "elements",
            "Elements handed over in one call; larger blocks gained nothing. Rounded up to a multiple of 4096.",
        ),
    ];
    let (values, defaults) = (read(limits), read(&SandboxLimits::default()));
    listed("sandbox.limits", about, values, defaults)
}

fn of_compiler(limits: &CompilerLimits) -> [Limit; 4] {
    let read = |limits: &CompilerLimits| {
        let CompilerLimits { memory_bytes, processor_seconds, deadline_milliseconds, code_bytes } = *limits;
        [memory_bytes, processor_seconds, deadline_milliseconds, code_bytes]
    };
    let about = [
        (
            "memory_bytes",
            "B",
            "Address space of a process that compiles an optimizer: the largest of ours needs 46 MiB, program included.",
        ),
        ("processor_seconds", "s", "Processor time of such a process: our optimizers take a fifth of a second."),
        ("deadline_milliseconds", "ms", "Its time by the clock: twice that, for a machine that is busy."),
        (
            "code_bytes",
            "B",
            "Native code of an optimizer: half a megabyte for ours, no more than the cache would keep.",
        ),
    ];
    let (values, defaults) = (read(limits), read(&CompilerLimits::default()));
    listed("compiler", about, values, defaults)
}

/// The limits of a section: what is said of each, its value and its default, in the same order.
fn listed<const N: usize>(
    section: &'static str,
    about: [(&'static str, &'static str, &'static str); N],
    values: [impl Setting; N],
    defaults: [impl Setting; N],
) -> [Limit; N] {
    std::array::from_fn(|index| {
        let (name, unit, reason) = about[index];
        Limit { section, name, value: values[index].number(), default: defaults[index].number(), unit, reason }
    })
}

fn of_audit(audit: Option<&AuditConfig>) -> [Limit; 2] {
    let default = AuditConfig::default();
    let audit = audit.unwrap_or(&default);
    let limit = |name, value, default, unit, reason| Limit { section: "audit", name, value, default, unit, reason };
    [
        limit(
            "file_bytes",
            audit.file_bytes.number(),
            default.file_bytes.number(),
            "B",
            "Bytes of an audit file that is followed by a new one: some hundred thousand lines, seconds to verify.",
        ),
        limit(
            "files",
            audit.files.number(),
            default.files.number(),
            "files",
            "Audit files that are kept: months of a server that nobody attacks. Ship them elsewhere to have them for \
             longer.",
        ),
    ]
}

fn of_cache(cache: &CacheConfig) -> [Limit; 2] {
    let default = CacheConfig::default();
    let limit = |name, value, default, unit, reason| Limit { section: "cache", name, value, default, unit, reason };
    [
        limit(
            "entries",
            cache.entries.number(),
            default.entries.number(),
            "files",
            "Compiled optimizers on disk: two versions each of those that come with the project. The one that was not \
             used for the longest time goes.",
        ),
        limit(
            "bytes",
            cache.bytes.number(),
            default.bytes.number(),
            "B",
            "All of them together; an optimizer has about half a megabyte of native code, one with an interpreter some \
             ten.",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_name_of_its_own_a_unit_and_a_reason() {
        let all = limits_in_force(None);
        for (index, limit) in all.iter().enumerate() {
            assert_eq!(limit.value, limit.default);
            assert!(!limit.unit.is_empty() && limit.reason.len() > 20 && limit.reason.ends_with('.'), "{limit:?}");
            assert!(!all[..index].iter().any(|other| (other.section, other.name) == (limit.section, limit.name)));
        }
    }

    #[test]
    fn what_is_set_is_in_force() {
        let text = "listen = '127.0.0.1:0'\nstate_directory = 's'\ntls = { ca = 'a', certificate = 'c', key = 'k' }\n\
                    trust = { store = 't' }\njob = { workers = ['w'], round_timeout_seconds = 7 }\n\
                    limits = { half_open = 3, idle_seconds = 2.5 }\nsandbox.limits = { call_fuel = 5 }\n\
                    cache = { entries = 4 }\n";
        let config = Config::parse(text, std::path::Path::new("")).unwrap();
        let changed: Vec<_> = limits_in_force(Some(&config))
            .into_iter()
            .filter(|limit| limit.value != limit.default)
            .map(|limit| (limit.section, limit.name, limit.value))
            .collect();
        assert_eq!(
            changed,
            [
                ("limits", "half_open", Number::Count(3)),
                ("limits", "idle_seconds", Number::Seconds(2.5)),
                ("job", "round_timeout_seconds", Number::Seconds(7.0)),
                ("sandbox.limits", "call_fuel", Number::Count(5)),
                ("cache", "entries", Number::Count(4)),
            ]
        );
    }
}
