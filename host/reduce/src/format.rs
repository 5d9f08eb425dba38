//! Floating-point formats on the wire, and whether bytes in them are numbers.

use std::fmt;

use crate::instruction_set::InstructionSet;
use crate::kernel::{self, FinitePrefix, Largest};

/// How a gradient's elements are encoded: little-endian, at any alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// IEEE 754 binary16.
    F16,
}

impl Format {
    /// Bytes of one element.
    pub const fn element_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// Its name, such as `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Whether no element of `bytes` is NaN or infinite. What is behind the last whole element is not looked at.
    pub fn all_finite(self, bytes: &[u8]) -> bool {
        self.finite_prefix(InstructionSet::best(), bytes) == bytes.len()
    }

    /// The first element of `bytes` that is NaN or infinite. Where there is none, this takes as long as
    /// [`all_finite`](Self::all_finite).
    pub fn first_not_finite(self, bytes: &[u8]) -> Option<NotFinite> {
        self.search(InstructionSet::best(), bytes)
    }

    /// The largest magnitude of the elements of `bytes`; infinity where one is NaN or infinite, and 0 where there is none.
    /// Takes as long as [`all_finite`](Self::all_finite). What is behind the last whole element is not looked at.
    pub fn largest_magnitude(self, bytes: &[u8]) -> f32 {
        self.magnitude(InstructionSet::best(), bytes)
    }

    pub(crate) fn magnitude(self, instruction_set: InstructionSet, bytes: &[u8]) -> f32 {
        let bits = instruction_set.run(Largest { format: self, bytes });
        let value = match self {
            Self::F32 => f32::from_bits(bits),
            // Both have 16 bits.
            Self::Bf16 => kernel::bf16(bits as u16),
            Self::F16 => kernel::f16(bits as u16),
        };
        if value.is_nan() { f32::INFINITY } else { value }
    }

    pub(crate) fn finite_prefix(self, instruction_set: InstructionSet, bytes: &[u8]) -> usize {
        instruction_set.run(FinitePrefix { format: self, bytes })
    }

    pub(crate) fn search(self, instruction_set: InstructionSet, bytes: &[u8]) -> Option<NotFinite> {
        let start = self.finite_prefix(instruction_set, bytes);
        let (width, rest) = (self.element_bytes(), &bytes[start..]);
        let found = rest.chunks_exact(width).map(|element| self.value(element)).enumerate();
        let mut found = found.filter(|(_, value)| !value.is_finite());
        found.next().map(|(index, value)| NotFinite { index: start / width + index, value })
    }

    /// One element's value. `element` has [`element_bytes`](Self::element_bytes).
    fn value(self, element: &[u8]) -> f32 {
        match (self, element) {
            (Self::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::Bf16, &[a, b]) => kernel::bf16(u16::from_le_bytes([a, b])),
            (Self::F16, &[a, b]) => kernel::f16(u16::from_le_bytes([a, b])),
            _ => unreachable!("the caller cuts elements of this format"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A gradient's bytes, or a part of them, and what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gradient<'a> {
    format: Format,
    bytes: &'a [u8],
}

impl<'a> Gradient<'a> {
    /// `bytes` in a format.
    pub const fn new(format: Format, bytes: &'a [u8]) -> Self {
        Self { format, bytes }
    }

    /// Little-endian `f32`s.
    pub const fn f32(bytes: &'a [u8]) -> Self {
        Self::new(Format::F32, bytes)
    }

    /// Little-endian bfloat16s.
    pub const fn bf16(bytes: &'a [u8]) -> Self {
        Self::new(Format::Bf16, bytes)
    }

    /// Little-endian binary16s.
    pub const fn f16(bytes: &'a [u8]) -> Self {
        Self::new(Format::F16, bytes)
    }

    /// How its elements are encoded.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// One element's value.
    pub(crate) fn element(&self, index: usize) -> f32 {
        let width = self.format.element_bytes();
        self.format.value(&self.bytes[index * width..(index + 1) * width])
    }

    /// Its elements.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// An element that is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NotFinite {
    /// Its position, in elements.
    pub index: usize,
    /// What it is.
    pub value: f32,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "element {} is {}", self.index, self.value)
    }
}
