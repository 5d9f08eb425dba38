//! The server as a whole: its start and end, the connections that it accepts, and the files that it reads again.

mod reload;
mod reserve;
mod server;
mod start;
mod state_directory;

pub use reload::Reloader;
pub use server::{Server, ServerError};
pub use state_directory::StateError;
