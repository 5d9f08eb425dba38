//! The server as a whole: its start and end, its connections, and the files that it reads again.

mod connection;
mod error;
mod reload;
mod reserve;
mod server;
mod start;
mod state_directory;

pub use error::ServerError;
pub use reload::Reloader;
pub use server::Server;
pub use state_directory::StateError;
