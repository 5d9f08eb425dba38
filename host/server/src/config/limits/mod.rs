//! The server's limits on what peers may make it hold, do or wait for. Every one can be set in the configuration's
//! `[limits]`; each constant's text says why it is what it is, and [`Limit`] shows the same text to the operator.

mod macros;
mod table;

use std::time::Duration;

use serde::Deserialize;
use stepbox_wire::FrameLimits;

use crate::config::Seconds;
pub use table::{Limit, Number, limits_in_force};

macros::limits! {
    /// Connections held at once. A job has one for each worker and a few for people; 1024 leaves room for large jobs
    /// and stays far below the usual limit on open files.
    connections: usize, "connections" =>
    pub const DEFAULT_CONNECTIONS: usize = 1024;

    /// Connections held at once for one identity. A worker needs one, and a second for a moment while it comes back;
    /// people open a few. A peer whose key was stolen cannot take all connections with it.
    connections_per_identity: usize, "connections" =>
    pub const DEFAULT_CONNECTIONS_PER_IDENTITY: usize = 16;

    /// Connections whose TLS handshake is not done, at once. Each may hold some 50 KiB, so all of them 25 MiB. Beyond
    /// it, the oldest of the address that has most of them gives way.
    half_open: usize, "connections" =>
    pub const DEFAULT_HALF_OPEN: usize = 512;

    /// Connections of one address whose TLS handshake is not done, at once: a cluster behind one address may start 128
    /// workers in the same instant, and one address takes no more than a quarter of the places. Of IPv6 an address is
    /// the network of 64 bits, which one customer has to himself.
    half_open_per_address: usize, "connections" =>
    pub const DEFAULT_HALF_OPEN_PER_ADDRESS: usize = 128;

    /// TLS handshakes begun in a second. One costs the server about half a millisecond of processor time, so all of
    /// them a tenth of a core, and a thousand workers have connected within five seconds. Those beyond it wait their
    /// turn, so that honest bursts are slowed and not broken.
    handshakes_per_second: u32, "1/s" =>
    pub const DEFAULT_HANDSHAKES_PER_SECOND: u32 = 200;

    /// TLS handshakes that one address begins in a second. Those beyond it wait their turn: the workers of a cluster
    /// behind one address have all connected within seconds.
    handshakes_per_second_per_address: u32, "1/s" =>
    pub const DEFAULT_HANDSHAKES_PER_SECOND_PER_ADDRESS: u32 = 50;

    /// Connections closed before TLS in a second. One costs about 40 µs of processor time, so all of them less than a
    /// tenth of a core. Beyond it the server accepts none until the time has come: the system's queue fills, and what
    /// finds it full tries again.
    turned_away_per_second: u32, "1/s" =>
    pub const DEFAULT_TURNED_AWAY_PER_SECOND: u32 = 2000;

    /// Seconds from a connection's acceptance to the end of its `Hello`. A TLS handshake takes two round trips; ten
    /// seconds are enough across any network that training is done over, and end whoever only wants to hold a
    /// connection.
    handshake_seconds: Seconds, "s" =>
    pub const DEFAULT_HANDSHAKE_SECONDS: f64 = 10.0;

    /// Failed handshakes and greetings of an address in a minute: no certificate or none of ours, no part in the job,
    /// nothing said in time. A worker with a wrong certificate that tries again each second stays just within.
    failures_per_minute_per_address: u32, "1/min" =>
    pub const DEFAULT_FAILURES_PER_MINUTE_PER_ADDRESS: u32 = 60;

    /// Seconds for which an address with more failures than that is not let in. Its open connections stay. As long as
    /// it takes for the count to be forgotten.
    shut_out_seconds: Seconds, "s" =>
    pub const DEFAULT_SHUT_OUT_SECONDS: f64 = 60.0;

    /// Seconds in which a connection that speaks for no worker may ask nothing while nothing is owed to it. People who
    /// watch a server ask again within ten minutes. A registered worker may compute for as long as it likes: it has
    /// one connection, and whoever waits for it has `job.round_timeout_seconds`.
    idle_seconds: Seconds, "s" =>
    pub const DEFAULT_IDLE_SECONDS: f64 = 600.0;

    /// Requests of an identity in a second, over all its connections. Above what a round of the largest model has, 8192
    /// pushes and pulls; a worker that does nothing but rounds of one small tensor reaches 10 000. Beyond it the server reads no further until the time has come.
    requests_per_second: u32, "1/s" =>
    pub const DEFAULT_REQUESTS_PER_SECOND: u32 = 20_000;

    /// Statuses and pages of lists that an identity asks for in a second: each costs the server as much as some hundred
    /// other requests. The status of a model of 8192 keys has at most some 50 pages. Beyond it the server reads no further
    /// until the time has come.
    reports_per_second: u32, "1/s" =>
    pub const DEFAULT_REPORTS_PER_SECOND: u32 = 200;

    /// Requests of an identity that are refused by its own fault in a minute, and as many at once: each is a line of
    /// the log. A refusal with the code of the one before is counted apart, up to `limits.keys` in a minute: one mistake
    /// can have one for each key. Beyond it the server reads its next requests only at this pace.
    refusals_per_minute: u32, "1/min" =>
    pub const DEFAULT_REFUSALS_PER_MINUTE: u32 = 600;

    /// Changes that an identity asks for in a minute, and as many at once: deployments, submissions, withdrawals, rollbacks
    /// and schedules, whatever becomes of them. Each is two lines of the audit log, which are on disk before it goes on and
    /// never gathered: at this rate they take weeks to push out what is kept. People and their scripts stay far below.
    changes_per_minute: u32, "1/min" =>
    pub const DEFAULT_CHANGES_PER_MINUTE: u32 = 60;

    /// How often an identity's worker comes or goes in a minute, and as many at once: all who are connected notice, and each
    /// is a line of the log. A worker that crashes at its start and is started again each second stays within. Beyond it
    /// the server reads no further until the time has come.
    registrations_per_minute: u32, "1/min" =>
    pub const DEFAULT_REGISTRATIONS_PER_MINUTE: u32 = 60;

    /// Bytes of bodies, both ways, of an identity in a second. The default is more than any network carries: set it
    /// where workers share a network with others. Beyond it the server reads and sends no further until the time has
    /// come.
    identity_bytes_per_second: u64, "B/s" =>
    pub const DEFAULT_IDENTITY_BYTES_PER_SECOND: u64 = 1 << 40;

    /// Bytes of bodies that are being received of one identity: two of the largest tensors. Beyond it requests wait,
    /// unread, until others are there.
    receiving_bytes_per_identity: u64, "B" =>
    pub const DEFAULT_RECEIVING_BYTES_PER_IDENTITY: u64 = 2 << 30;

    /// Bytes of bodies that are being received of all peers: eight of the largest tensors keep any network busy.
    /// Beyond it requests wait, unread, until others are there. Divided among the jobs, so that no job waits for another.
    receiving_bytes: u64, "B" =>
    pub const DEFAULT_RECEIVING_BYTES: u64 = 8 << 30;

    /// Bytes of bodies that are being sent to one identity, as for what is received. A peer that reads slowly holds a
    /// version of the weights that others no longer need.
    sending_bytes_per_identity: u64, "B" =>
    pub const DEFAULT_SENDING_BYTES_PER_IDENTITY: u64 = 2 << 30;

    /// Bytes of bodies that are being sent to all peers, each counted, whether or not they are the same weights: a
    /// hundred workers that pull the largest tensor take it in turns of 64. Divided among the jobs, as what is received.
    sending_bytes: u64, "B" =>
    pub const DEFAULT_SENDING_BYTES: u64 = 64 << 30;

    /// Seconds that a frame, once its first byte is there, may take on top of what `bytes_per_second` allows for its
    /// length. Covers a few lost packets and their retransmission.
    frame_seconds: Seconds, "s" =>
    pub const DEFAULT_FRAME_SECONDS: f64 = 30.0;

    /// The slowest a frame may come in or an answer may go out, in bytes per second: 1 MiB/s, a hundredth of a gigabit
    /// network. A peer below it would hold a buffer of its tensor's size for no use: no round ends before its push
    /// does.
    bytes_per_second: u64, "B/s" =>
    pub const DEFAULT_BYTES_PER_SECOND: u64 = 1 << 20;

    /// Requests of one connection that wait for an answer. A worker that pulls all keys of a model at once has as many
    /// as the model has keys; each costs a task of a few hundred bytes.
    outstanding_requests: usize, "requests" =>
    pub const DEFAULT_OUTSTANDING_REQUESTS: usize = 8192;

    /// Requests of an identity that wait for an answer, over all its connections: those of a worker, and once more for a
    /// moment while it comes back. A waiting request and the text of its answer take some kilobytes at most.
    outstanding_requests_per_identity: usize, "requests" =>
    pub const DEFAULT_OUTSTANDING_REQUESTS_PER_IDENTITY: usize = 2 * DEFAULT_OUTSTANDING_REQUESTS;

    /// Row ids that are held for an identity: of its row pulls that wait, and of the rows that it has pushed until their
    /// round has run. 8 Mi ids are 64 MiB, hundreds of times what a batch of an embedding model touches; push or pull
    /// tensors whole of which more is touched.
    row_ids: usize, "ids" =>
    pub const DEFAULT_ROW_IDS: usize = 8 << 20;

    /// Bytes of a frame's header: the longest message is a deployment with many groups of tensors. Lists are sent in pages
    /// of 64 KiB, or as much as this allows.
    header_bytes: u32, "B" =>
    pub const DEFAULT_HEADER_BYTES: u32 = stepbox_wire::DEFAULT_HEADER_BYTES;

    /// Bytes of a frame's body, so of a tensor: 1 GiB, 268 million parameters. Larger ones are split by their owners.
    body_bytes: u64, "B" =>
    pub const DEFAULT_BODY_BYTES: u64 = stepbox_wire::DEFAULT_BODY_BYTES;

    /// Bytes of a component in a deployment: what the trust store takes by default.
    component_bytes: u64, "B" =>
    pub const DEFAULT_COMPONENT_BYTES: u64 = stepbox_trust::MAX_COMPONENT_BYTES as u64;

    /// Components that wait for their activation. A team tries out a few versions at a time.
    submissions: usize, "components" =>
    pub const DEFAULT_SUBMISSIONS: usize = 32;

    /// Components of one identity that wait for their activation, so that no publisher takes the room of all others.
    submissions_per_identity: usize, "components" =>
    pub const DEFAULT_SUBMISSIONS_PER_IDENTITY: usize = 8;

    /// Bytes of all submissions on disk: 128 MiB, eight components of the largest size or hundreds of the usual.
    submission_bytes: u64, "B" =>
    pub const DEFAULT_SUBMISSION_BYTES: u64 = 128 << 20;

    /// Keys of the model. The largest models in use have a few thousand tensors.
    keys: usize, "keys" =>
    pub const DEFAULT_KEYS: usize = 8192;

    /// Bytes of all weights together: 16 GiB, four billion parameters. The server holds a model's weights three times
    /// (in the sandbox, as published, and the buffer of the version before), a gradient for each worker, and the
    /// optimizer's slots.
    model_bytes: u64, "B" =>
    pub const DEFAULT_MODEL_BYTES: u64 = 16 << 30;

    /// Seconds that one job may keep a shard thread before the shard counts as stuck: more than two of the longest calls
    /// into an optimizer, which have a minute each. Then deployments, rollbacks, new keys and the weights' digest are
    /// refused at once, and the status warns, until the shard answers again.
    shard_answer_seconds: Seconds, "s" =>
    pub const DEFAULT_SHARD_ANSWER_SECONDS: f64 = 150.0;
}

impl Limits {
    /// The limits that have to be known to read a frame.
    pub fn frame(&self) -> FrameLimits {
        FrameLimits { header_bytes: self.header_bytes, body_bytes: self.body_bytes }
    }

    /// How long `bytes` may take to come or go.
    pub fn time_for(&self, bytes: u64) -> Duration {
        self.frame_seconds.duration() + Duration::from_secs(bytes / self.bytes_per_second.max(1))
    }

    /// The names of limits that are zero: with them the server could do nothing.
    pub(crate) fn zeros(&self) -> impl Iterator<Item = &'static str> {
        self.list().filter(|limit| limit.value == Number::Count(0)).map(|limit| limit.name)
    }
}
