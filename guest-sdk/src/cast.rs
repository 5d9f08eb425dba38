//! Conversions between bytes and elements.
//!
//! Every view starts at a multiple of its element size and contains whole elements; the code that creates views ensures
//! this. An empty view can have any address, however, which `bytemuck` does not accept.

use bytemuck::Pod;

pub(crate) fn elements<T: Pod>(bytes: &[u8]) -> &[T] {
    if bytes.is_empty() { &[] } else { bytemuck::cast_slice(bytes) }
}

pub(crate) fn elements_mut<T: Pod>(bytes: &mut [u8]) -> &mut [T] {
    if bytes.is_empty() { &mut [] } else { bytemuck::cast_slice_mut(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_view_may_lie_anywhere() {
        let mut words = [0_u64; 1];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        assert!(elements::<f64>(&bytes[1..1]).is_empty());
        assert!(elements_mut::<f64>(&mut bytes[1..1]).is_empty());
        elements_mut::<f32>(&mut bytes[4..])[0] = 1.0;
        assert_eq!(elements::<f32>(bytes), [0.0, 1.0]);
    }
}
