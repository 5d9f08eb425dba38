//! Accesses that leave an instance's memory.

/// What the server has placed in an instance's memory is no longer within it. This cannot happen, since memories never
/// shrink, but is no reason to stop the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotInMemory;
