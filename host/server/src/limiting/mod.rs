//! What peers may take of the server before and besides what they ask of a job: connections, handshakes, requests,
//! bytes under way.
//!
//! | module | what it bounds |
//! |---|---|
//! | `arrivals` | connections whose peer is not known yet: by address, by network, and all together |
//! | `source` | addresses and their networks, and which of them has most |
//! | `accounts` | what an identity does over all its connections |
//! | `room` | bytes of bodies that are being received or sent, by identity and by job |
//! | `rate` | how often: the generic cell rate algorithm |
//! | `remembered` | what is kept of addresses and identities that are not here: a bounded number, for a while |
//!
//! Where waiting does no harm, whoever is above a limit waits: a burst of honest workers is slowed, and a flood stands
//! in its sender's own buffers. Only what cannot wait, a connection that would take another one's place or a change that
//! people ask for, is refused.

mod accounts;
mod arrivals;
mod rate;
mod remembered;
mod room;
mod source;

pub(crate) use accounts::{Account, Accounts};
pub(crate) use arrivals::{Arrival, Arrivals, Failed};
pub(crate) use room::{Direction, Held, Rooms};
