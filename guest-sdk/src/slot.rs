//! State that the server keeps for an optimizer.

use std::borrow::Cow;

/// Type of a slot's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// The upper half of a binary32; see [`bf16`](crate::bf16).
    Bf16,
    /// Bytes.
    U8,
    /// 32-bit counters.
    U32,
    /// 64-bit counters.
    U64,
}

impl ElementType {
    /// Size of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::F64 | Self::U64 => 8,
        }
    }

    /// The constant an element starts at, in this type, as bytes in the machine's order.
    pub(crate) fn bytes_of(self, value: f64) -> Vec<u8> {
        match self {
            Self::F32 => (value as f32).to_ne_bytes().to_vec(),
            Self::F64 => value.to_ne_bytes().to_vec(),
            Self::Bf16 => crate::bf16::from_f32(value as f32).to_ne_bytes().to_vec(),
            Self::U8 => vec![value as u8],
            Self::U32 => (value as u32).to_ne_bytes().to_vec(),
            Self::U64 => (value as u64).to_ne_bytes().to_vec(),
        }
    }
}

/// A Rust type whose values lie in slots: `f32`, `f64`, `u8`, `u32`, `u64`, and `u16` for the bits of a
/// [`bf16`](crate::bf16).
pub trait Element: bytemuck::Pod {
    /// The slots that hold it.
    const TYPE: ElementType;
}

impl Element for f32 {
    const TYPE: ElementType = ElementType::F32;
}
impl Element for f64 {
    const TYPE: ElementType = ElementType::F64;
}
impl Element for u16 {
    const TYPE: ElementType = ElementType::Bf16;
}
impl Element for u8 {
    const TYPE: ElementType = ElementType::U8;
}
impl Element for u32 {
    const TYPE: ElementType = ElementType::U32;
}
impl Element for u64 {
    const TYPE: ElementType = ElementType::U64;
}

/// How many elements a slot has. A tensor's rows are its first axis, a row's elements are all others; a tensor with
/// fewer than two axes is one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// One for each parameter.
    PerElement,
    /// One for each run of this many parameters, counted from the tensor's start.
    PerRun(u32),
    /// One for each row.
    PerRow,
    /// One for each element of a row, shared by all rows.
    PerColumn,
    /// One for the tensor.
    Scalar,
    /// This many, whatever the tensor's shape.
    Vector(u64),
    /// Rows times columns, whatever the tensor's shape.
    Matrix(u64, u64),
}

impl Extent {
    /// Whether every slice has its own copy, which an optimizer may write in `begin` only so that all stay the same.
    pub(crate) fn is_shared(self) -> bool {
        matches!(self, Self::PerRow | Self::PerColumn | Self::Scalar)
    }
}

/// What a slot holds before the first round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// Zero.
    Zero,
    /// This number, rounded to the slot's type.
    Constant(f64),
    /// The parameter's own first value.
    Parameter,
}

/// Which numbers the codes of an 8-bit slot stand for; see [`quantise`](crate::quantise).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// From -1 to 1 times the run's largest absolute value: means.
    Signed,
    /// From 0 to 1 times it, twice as fine: variances.
    Unsigned,
}

/// A named piece of state. Without more words, one `f32` for each parameter.
///
/// Declare each as a constant, so that [`Plan`](crate::Plan) and [`Block`](crate::Block) speak of the same:
///
/// ```
/// use stepbox_guest::{ElementType, Slot};
/// const MEAN: Slot = Slot::zero("mean").bf16();
/// const ROW_VARIANCE: Slot = Slot::zero("row_variance").per_row();
/// const VISITS: Slot = Slot::zero("visits").of_type(ElementType::U32).per_row();
/// ```
///
/// A new version of the optimizer that has a slot of the same name finds its values there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    pub(crate) name: &'static str,
    pub(crate) element: ElementType,
    pub(crate) extent: Extent,
    pub(crate) initial: Initial,
    pub(crate) code: Option<Code>,
}

impl Slot {
    const fn new(name: &'static str, initial: Initial) -> Self {
        Self { name, element: ElementType::F32, extent: Extent::PerElement, initial, code: None }
    }

    /// Starts at zero.
    pub const fn zero(name: &'static str) -> Self {
        Self::new(name, Initial::Zero)
    }

    /// Starts at a constant.
    pub const fn constant(name: &'static str, value: f64) -> Self {
        Self::new(name, Initial::Constant(value))
    }

    /// Starts as a copy of the parameters. Only for slots of one `f32` for each parameter.
    pub const fn parameter(name: &'static str) -> Self {
        Self::new(name, Initial::Parameter)
    }

    /// With elements of another type. [`Block::update`](crate::Block::update) and its kin hand out `f32` and bf16 slots;
    /// others are reached through [`Slots`](crate::Slots).
    pub const fn of_type(self, element: ElementType) -> Self {
        Self { element, ..self }
    }

    /// Kept as bf16, rounded to nearest even. [`Block::update`](crate::Block::update) and its kin hand it out as `f32`.
    pub const fn bf16(self) -> Self {
        self.of_type(ElementType::Bf16)
    }

    /// Kept in one byte an element and one `f32` for each run of 256, starting at zero; see
    /// [`quantise`](crate::quantise). [`Block::update`](crate::Block::update) and its kin hand it out as `f32`. The server
    /// sees two slots: this one and `<name>_scale`.
    pub const fn quantised(self, code: Code) -> Self {
        Self { element: ElementType::U8, initial: Initial::Zero, code: Some(code), ..self }
    }

    /// One element for each run of so many parameters, counted from the tensor's start. Must divide 4096.
    pub const fn per_run(self, elements: u32) -> Self {
        Self { extent: Extent::PerRun(elements), ..self }
    }

    /// One element for each row.
    pub const fn per_row(self) -> Self {
        Self { extent: Extent::PerRow, ..self }
    }

    /// One element for each column, shared by all rows.
    pub const fn per_column(self) -> Self {
        Self { extent: Extent::PerColumn, ..self }
    }

    /// One element for the tensor.
    pub const fn scalar(self) -> Self {
        Self { extent: Extent::Scalar, ..self }
    }

    /// So many elements. Only for tensors that are visited whole.
    pub const fn vector(self, elements: u64) -> Self {
        Self { extent: Extent::Vector(elements), ..self }
    }

    /// A matrix of this shape. Only for tensors that are visited whole.
    pub const fn matrix(self, rows: u64, columns: u64) -> Self {
        Self { extent: Extent::Matrix(rows, columns), ..self }
    }

    /// The slot's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The value of this slot for a parameter that starts at `parameter`.
    pub fn first_value(&self, parameter: f32) -> f32 {
        match self.initial {
            Initial::Zero => 0.0,
            Initial::Constant(value) => value as f32,
            Initial::Parameter => parameter,
        }
    }

    /// What the server keeps for it: one slot, or two where it is quantised.
    pub(crate) fn stored(&self) -> impl Iterator<Item = StoredSlot> {
        let itself = StoredSlot {
            name: Cow::Borrowed(self.name),
            element: self.element,
            extent: self.extent,
            initial: self.initial,
        };
        let scale = self.code.map(|_| StoredSlot {
            name: Cow::Owned(format!("{}_scale", self.name)),
            element: ElementType::F32,
            extent: Extent::PerRun(crate::quantise::RUN as u32),
            initial: Initial::Zero,
        });
        std::iter::once(itself).chain(scale)
    }
}

/// A slot as the contract knows it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredSlot {
    pub(crate) name: Cow<'static, str>,
    pub(crate) element: ElementType,
    pub(crate) extent: Extent,
    pub(crate) initial: Initial,
}
