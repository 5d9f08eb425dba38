//! What the server tells of itself: the status, lists page by page, and the digest of all weights.

mod pages;
mod status;
mod weights_digest;

pub(crate) use pages::{REPORT_BYTES, Report};
#[cfg(test)]
pub(crate) use status::status;
pub(crate) use status::weights_digest;
