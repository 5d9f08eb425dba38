//! What a worker sends is held against the key it names.

use stepbox_reduce::Format;
use stepbox_wire::{ElementType, ErrorCode, TensorType};

use super::key::Key;
use crate::config::GradientType;
use crate::names::{Answered, Refusal};
use crate::tensor::RowLayout;

/// Whether a tensor's type is the key's.
pub(crate) fn check_type(key: &Key, tensor: &TensorType) -> Answered<()> {
    if tensor.element != key.tensor.element {
        let message = format!("key `{}` holds {}, not {}", key.name, key.tensor.element, tensor.element);
        return Err(Refusal::new(ErrorCode::WrongElementType, message));
    }
    check_shape(key, tensor)
}

/// Whether a tensor's type is that of a whole gradient of the key, and how its elements are encoded.
pub(crate) fn check_gradient(key: &Key, tensor: &TensorType, accepted: &[GradientType]) -> Answered<Format> {
    let element = tensor.element;
    let gradient_type = match element {
        ElementType::F32 => Some(GradientType::F32),
        ElementType::Bf16 => Some(GradientType::Bf16),
        ElementType::F16 => Some(GradientType::F16),
        _ => None,
    };
    match gradient_type.filter(|gradient_type| accepted.contains(gradient_type)) {
        Some(gradient_type) => {
            check_shape(key, tensor)?;
            Ok(gradient_type.format())
        }
        None => {
            let names: Vec<_> = accepted.iter().map(|accepted| accepted.format().name()).collect();
            let message = format!(
                "gradients of key `{}` are accepted as {} (job.gradient_types), not as {element}",
                key.name,
                names.join(", ")
            );
            Err(Refusal::new(ErrorCode::WrongElementType, message))
        }
    }
}

fn check_shape(key: &Key, tensor: &TensorType) -> Answered<()> {
    if tensor.shape != key.tensor.shape {
        let message = format!("key `{}` has shape {:?}, not {:?}", key.name, key.tensor.shape, tensor.shape);
        return Err(Refusal::new(ErrorCode::WrongShape, message));
    }
    Ok(())
}

/// Whether the type of rows' values is that of the key's rows.
pub(crate) fn check_rows(key: &Key, values: &TensorType) -> Answered<RowLayout> {
    let layout = row_layout(key)?;
    if values.element != key.tensor.element {
        let message =
            format!("rows of key `{}` are pushed as {}, not as {}", key.name, key.tensor.element, values.element);
        return Err(Refusal::new(ErrorCode::WrongElementType, message));
    }
    if values.shape.get(1..) != key.tensor.shape.get(1..) {
        let (shape, found) = (&key.tensor.shape, &values.shape);
        let message = format!(
            "key `{}` has shape {shape:?}; {found:?} are no rows of it: extents but the first must agree",
            key.name
        );
        return Err(Refusal::new(ErrorCode::WrongShape, message));
    }
    Ok(layout)
}

/// How the key divides into rows. Rows without elements are none: there may be any number of them in a tensor that takes no
/// memory, and their ids would take it.
pub(crate) fn row_layout(key: &Key) -> Answered<RowLayout> {
    key.row_layout().filter(|layout| layout.row_bytes > 0).ok_or_else(|| {
        let message = format!(
            "key `{}` has shape {:?}: only tensors of two and more axes have rows, and only those with elements; push or pull it whole",
            key.name, key.tensor.shape
        );
        Refusal::new(ErrorCode::WrongShape, message)
    })
}

/// Row ids from a body, all below the number of rows.
pub(crate) fn row_ids(key: &Key, layout: RowLayout, body: &[u8]) -> Answered<Vec<u64>> {
    let ids: Vec<_> = body.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    match ids.iter().position(|id| *id >= layout.rows) {
        None => Ok(ids),
        Some(position) => {
            let (id, rows) = (ids[position], layout.rows);
            let message =
                format!("key `{}` has {rows} rows, so none of id {id} (number {position} of the ids)", key.name);
            Err(Refusal::new(ErrorCode::RowOutOfRange, message))
        }
    }
}

/// Whether a gradient stays within the operator's bound, where there is one.
pub(crate) fn check_magnitude(key: &Key, largest: f32, bound: Option<f32>) -> Answered<()> {
    match bound.filter(|bound| largest > *bound) {
        None => Ok(()),
        Some(bound) => {
            let message = format!(
                "the gradient of key `{}` has an element of magnitude {largest:e}, above {bound:e} \
                 (job.max_gradient_magnitude); nothing of it was used",
                key.name
            );
            Err(Refusal::new(ErrorCode::GradientTooLarge, message))
        }
    }
}

/// Whether a push has the loss that an optimizer of this name needs, and one that is a number.
pub(crate) fn check_loss(key: &Key, needed_by: Option<&str>, loss: Option<f32>) -> Answered<()> {
    match (needed_by, loss) {
        (_, Some(loss)) if !loss.is_finite() => Err(Refusal::new(
            ErrorCode::NotFinite,
            format!("the loss pushed with key `{}` is {loss}; nothing of the push was used", key.name),
        )),
        (Some(optimizer), None) => Err(Refusal::new(
            ErrorCode::LossMissing,
            format!("{optimizer} needs the loss of each round: push the gradient of key `{}` with it", key.name),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_asked_for_where_it_is_needed_and_must_be_a_number() {
        let key = crate::model::key::tests::key("w", 1);
        let code = |needed_by, loss| check_loss(&key, needed_by, loss).err().map(|refusal| refusal.code);
        assert_eq!(code(None, None), None);
        assert_eq!(code(Some("momo"), Some(0.5)), None);
        assert_eq!(code(Some("momo"), None), Some(ErrorCode::LossMissing));
        assert_eq!(code(None, Some(f32::NAN)), Some(ErrorCode::NotFinite));
    }
}
