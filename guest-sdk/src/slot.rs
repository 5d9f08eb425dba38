//! Slots: the state that the server keeps for an optimizer.

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
    /// Unsigned 8-bit integers, such as codes of quantized state.
    U8,
    /// Unsigned 32-bit integers, such as counters.
    U32,
    /// Unsigned 64-bit integers, such as counters.
    U64,
}

impl ElementType {
    /// Size of an element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::F64 | Self::U64 => 8,
        }
    }

    /// The initial constant of an element, converted to this type, as bytes in native byte order.
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

/// A Rust type that slots can hold: `f32`, `f64`, `u8`, `u32`, `u64`, and `u16` for the bits of a
/// [`bf16`](crate::bf16).
pub trait Element: bytemuck::Pod {
    /// The element type of slots that hold this Rust type.
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

/// How many elements a slot has. A tensor's rows are indexed by its first axis; a row has the elements of all other
/// axes. A tensor with fewer than two axes is one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// One element for each parameter.
    PerElement,
    /// One element for each run of this many parameters, counted from the start of the tensor.
    PerRun(u32),
    /// One element for each row.
    PerRow,
    /// One element for each column, shared by all rows.
    PerColumn,
    /// One element for the tensor.
    Scalar,
    /// This many elements, independent of the tensor's shape.
    Vector(u64),
    /// A matrix of this many rows and columns, independent of the tensor's shape.
    Matrix(u64, u64),
}

impl Extent {
    /// Whether every slice has a copy of such slots. An optimizer writes them in `begin` only, so that all copies stay
    /// equal.
    pub(crate) fn is_shared(self) -> bool {
        matches!(self, Self::PerRow | Self::PerColumn | Self::Scalar)
    }
}

/// What a slot contains before the first round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// All bits zero.
    Zero,
    /// This number, rounded to the slot's type.
    Constant(f64),
    /// The initial value of the parameter.
    Parameter,
}

/// Which numbers the codes of an 8-bit slot represent; see [`quantise`](crate::quantise).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Numbers from -1 to 1 times the largest absolute value of the run: for means.
    Signed,
    /// Numbers from 0 to 1 times the largest absolute value of the run, twice as fine: for variances.
    Unsigned,
}

/// A named piece of state; by default one `f32` for each parameter.
///
/// Declare each slot as a constant, so that [`Plan`](crate::Plan) and [`Block`](crate::Block) refer to the same slot:
///
/// ```
/// use stepbox_guest::{ElementType, Slot};
/// const MEAN: Slot = Slot::zero("mean").bf16();
/// const ROW_VARIANCE: Slot = Slot::zero("row_variance").per_row();
/// const VISITS: Slot = Slot::zero("visits").of_type(ElementType::U32).per_row();
/// ```
///
/// A new version of the optimizer finds the values of a slot under the same name.
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

    /// A slot that starts at zero: one `f32` for each parameter.
    pub const fn zero(name: &'static str) -> Self {
        Self::new(name, Initial::Zero)
    }

    /// A slot that starts at a constant: one `f32` for each parameter.
    pub const fn constant(name: &'static str, value: f64) -> Self {
        Self::new(name, Initial::Constant(value))
    }

    /// A slot that starts as a copy of the parameters. Only for slots of one `f32` for each parameter.
    pub const fn parameter(name: &'static str) -> Self {
        Self::new(name, Initial::Parameter)
    }

    /// Sets the element type. [`Block::update`](crate::Block::update) and similar methods accept `f32` and bf16 slots;
    /// [`Slots`](crate::Slots) gives access to the others.
    pub const fn of_type(self, element: ElementType) -> Self {
        Self { element, ..self }
    }

    /// Stores the slot as bf16, rounded to nearest even. [`Block::update`](crate::Block::update) and similar methods
    /// present it as `f32`.
    pub const fn bf16(self) -> Self {
        self.of_type(ElementType::Bf16)
    }

    /// Stores the slot as one byte per element and one `f32` for each run of 256 elements, initially zero; see
    /// [`quantise`](crate::quantise). [`Block::update`](crate::Block::update) and similar methods present it as `f32`.
    /// The server sees two slots: this one and `<name>_scale`.
    pub const fn quantised(self, code: Code) -> Self {
        Self { element: ElementType::U8, initial: Initial::Zero, code: Some(code), ..self }
    }

    /// One element for each run of `elements` parameters, counted from the start of the tensor. `elements` must divide
    /// 4096.
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

    /// A vector of `elements` elements. Only for tensors that are visited whole.
    pub const fn vector(self, elements: u64) -> Self {
        Self { extent: Extent::Vector(elements), ..self }
    }

    /// A matrix of `rows` by `columns` elements. Only for tensors that are visited whole.
    pub const fn matrix(self, rows: u64, columns: u64) -> Self {
        Self { extent: Extent::Matrix(rows, columns), ..self }
    }

    /// The slot's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The initial value of this slot for a parameter that starts at `parameter`.
    pub fn first_value(&self, parameter: f32) -> f32 {
        match self.initial {
            Initial::Zero => 0.0,
            Initial::Constant(value) => value as f32,
            Initial::Parameter => parameter,
        }
    }

    /// The slots that the server keeps for this one: one, or two if it is quantized.
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

/// A slot as the contract defines it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredSlot {
    pub(crate) name: Cow<'static, str>,
    pub(crate) element: ElementType,
    pub(crate) extent: Extent,
    pub(crate) initial: Initial,
}
