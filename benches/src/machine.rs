//! The machine that figures were taken on.

use std::fs;

use serde::Serialize;

/// What figures depend on. What cannot be found out says `unknown`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Its cores, as many as this process may use.
    pub cores: usize,
    /// The instruction set that the reduction uses, and those that matter of what the processor has.
    pub instruction_sets: String,
    /// Its caches, by level.
    pub caches: String,
    /// Main memory, in GiB.
    pub memory_gib: f64,
    /// The system and its release.
    pub kernel: String,
    /// Whether it is a virtual machine, whose neighbours can be felt.
    pub virtual_machine: bool,
}

/// Instruction sets that make a difference here, by their name in `/proc/cpuinfo` and among people.
const INSTRUCTION_SETS: [(&str, &str); 9] = [
    ("sse2", "SSE2"),
    ("avx2", "AVX2"),
    ("fma", "FMA"),
    ("avx512f", "AVX-512F"),
    ("avx512_bf16", "AVX-512-BF16"),
    ("f16c", "F16C"),
    ("aes", "AES-NI"),
    ("vaes", "VAES"),
    ("asimd", "NEON"),
];

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.split(':').next().is_some_and(|found| found.trim() == name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let flags = field(&processor, "flags").or_else(|| field(&processor, "Features")).unwrap_or_default();
        let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
        let named: Vec<&str> = INSTRUCTION_SETS.iter().filter(|(flag, _)| has(flag)).map(|(_, name)| *name).collect();
        let kilobytes = field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
        let unknown = || "unknown".to_owned();
        Self {
            processor: field(&processor, "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            instruction_sets: if named.is_empty() { unknown() } else { named.join(", ") },
            caches: caches().unwrap_or_else(unknown),
            memory_gib: (kilobytes.unwrap_or(0.0) / 1048576.0 * 10.0).round() / 10.0,
            kernel: kernel().unwrap_or_else(|| std::env::consts::OS.into()),
            virtual_machine: has("hypervisor"),
        }
    }

    /// A line for people.
    pub fn line(&self) -> String {
        let kind = if self.virtual_machine { "a virtual machine with " } else { "" };
        let Self { processor, cores, instruction_sets, caches, memory_gib, kernel, .. } = self;
        format!(
            "{kind}{cores} cores of {processor} ({instruction_sets}; caches {caches}), {memory_gib} GiB of memory, {kernel}"
        )
    }
}

/// Such as `Linux 6.8.0`.
fn kernel() -> Option<String> {
    let read = |name| Some(fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().to_owned());
    Some(format!("{} {}", read("ostype")?, read("osrelease")?))
}

/// Such as `L1d 32K, L2 1024K, L3 32768K`: those of the first core.
fn caches() -> Option<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()? {
        let read = |name| Some(fs::read_to_string(entry.as_ref().ok()?.path().join(name)).ok()?.trim().to_owned());
        if let (Some(level), Some(kind), Some(size)) = (read("level"), read("type"), read("size")) {
            match kind.as_str() {
                "Instruction" => {}
                "Data" => found.push(format!("L{level}d {size}")),
                _ => found.push(format!("L{level} {size}")),
            }
        }
    }
    found.sort();
    (!found.is_empty()).then(|| found.join(", "))
}
