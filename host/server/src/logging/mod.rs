//! The process's log: its health, and a throttle for lines that peers can cause.

mod health;
mod throttle;

pub use health::LogHealth;
pub(crate) use throttle::LogThrottle;
