//! Lengths in a header are only announcements. The only test of its program, because the peak it reads is the
//! program's.

use peak_alloc::PeakAlloc;
use stepbox_wire::{decode_request, decode_response};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What a decoder may allocate for a header: serde reserves at most 1 MiB on the word of a list's length, and what a
/// list really holds takes memory in proportion to its bytes, times the growth of a `Vec`.
fn allowance(header: &[u8]) -> usize {
    (2 << 20) + 64 * header.len()
}

#[test]
fn announced_lengths_allocate_nothing_by_themselves() {
    // 2^63 in a varint: a length no memory holds.
    let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
    let headers = [
        // Init: a key of 2^63 bytes.
        [&[1, 2], huge.as_slice()].concat(),
        // Init: a shape of 2^63 extents, of which some come.
        [&[1, 2, 1, b'w', 0], huge.as_slice(), &[1; 100]].concat(),
        // Init: 2^63 tags.
        [&[1, 2, 1, b'w', 0, 0], huge.as_slice(), &[1, b'a', 1, b'b']].concat(),
        // Deploy: 2^63 hyperparameters.
        [&[1, 7, 0, 0], huge.as_slice(), &[1, b'a', 1, b'b']].concat(),
        // Deploy: 2^63 groups.
        [&[1, 7, 0, 0, 0], huge.as_slice(), &[1, b'a', 1, 1, b'b']].concat(),
        // Status: 2^63 workers.
        [&[1, 8, 1, b's', 0, 0, 0, 0, 0, 0], huge.as_slice(), &[1, b'a', 0, 1]].concat(),
    ];
    for header in &headers {
        ALLOCATOR.reset_peak_usage();
        let before = ALLOCATOR.current_usage();
        decode_request(header).expect_err("a length beyond the header");
        decode_response(header).expect_err("a length beyond the header");
        let grown = ALLOCATOR.peak_usage().saturating_sub(before);
        assert!(grown <= allowance(header), "{grown} bytes allocated for the header {header:02x?}");
    }
}
