//! Which workers are there. No I/O, no clock: whoever calls says when a connection broke and when its grace is over.
//!
//! A job's workers are fixed by the configuration, and every round needs all of them, so that what a round yields never
//! depends on who happened to be connected. What changes is what others are told while they wait:
//!
//! | presence | because | who waits for it |
//! |---|---|---|
//! | absent | has not come yet | until the time-out |
//! | connected | is registered | until the time-out |
//! | interrupted | the connection broke, the grace runs | until the time-out |
//! | lost | the grace is over | is told at once |
//! | left | said goodbye | is told at once |
//!
//! A run of the job ends when the last worker has left: then all are absent again and the next run starts afresh.

use crate::names::{ConnectionId, Identity, Rank};

/// All workers of the job.
#[derive(Debug)]
pub(crate) struct Membership {
    seats: Vec<Seat>,
}

#[derive(Debug)]
struct Seat {
    identity: Identity,
    presence: Presence,
}

/// Whether a worker is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Has not come yet.
    Absent,
    /// Registered by this connection.
    Connected(ConnectionId),
    /// This connection broke a moment ago.
    Interrupted(ConnectionId),
    /// Did not come back.
    Lost,
    /// Left on purpose.
    Left,
}

/// What an event did to the job's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// It goes on.
    GoesOn,
    /// The last worker has left: everything that belonged to the run is void.
    Ended,
}

impl Membership {
    pub fn new(identities: impl IntoIterator<Item = Identity>) -> Self {
        let seat = |identity| Seat { identity, presence: Presence::Absent };
        Self { seats: identities.into_iter().map(seat).collect() }
    }

    pub fn identity(&self, rank: Rank) -> &Identity {
        &self.seats[rank as usize].identity
    }

    pub fn presence(&self, rank: Rank) -> Presence {
        self.seats[rank as usize].presence
    }

    /// A worker has registered. Returns the connection it replaces.
    pub fn connect(&mut self, rank: Rank, connection: ConnectionId) -> Option<ConnectionId> {
        let seat = &mut self.seats[rank as usize];
        let before = std::mem::replace(&mut seat.presence, Presence::Connected(connection));
        match before {
            Presence::Connected(replaced) if replaced != connection => Some(replaced),
            _ => None,
        }
    }

    /// Whether this connection speaks for the worker.
    pub fn is_connected(&self, rank: Rank, connection: ConnectionId) -> bool {
        self.presence(rank) == Presence::Connected(connection)
    }

    /// A connection has ended. Returns whether a grace starts: not for one that left or was replaced.
    pub fn disconnect(&mut self, rank: Rank, connection: ConnectionId) -> bool {
        let broke = self.is_connected(rank, connection);
        if broke {
            self.seats[rank as usize].presence = Presence::Interrupted(connection);
        }
        broke
    }

    /// The grace that started when this connection broke is over. Returns whether the worker is lost by it.
    pub fn grace_over(&mut self, rank: Rank, connection: ConnectionId) -> (bool, Run) {
        if self.presence(rank) != Presence::Interrupted(connection) {
            return (false, Run::GoesOn);
        }
        self.seats[rank as usize].presence = Presence::Lost;
        (true, self.end_if_over())
    }

    /// A connection says goodbye. Returns whether the worker has left by it: not where another connection speaks for the
    /// worker by now.
    pub fn leave(&mut self, rank: Rank, connection: ConnectionId) -> (bool, Run) {
        if !self.is_connected(rank, connection) {
            return (false, Run::GoesOn);
        }
        self.seats[rank as usize].presence = Presence::Left;
        (true, self.end_if_over())
    }

    /// The workers among these who will not do what is waited for, described; empty where waiting makes sense.
    pub fn gone(&self, ranks: impl IntoIterator<Item = Rank>) -> String {
        list(ranks.into_iter().filter_map(|rank| {
            let Seat { identity, presence } = &self.seats[rank as usize];
            match presence {
                Presence::Lost => Some(format!("{identity} (rank {rank}) is lost: its connection broke")),
                Presence::Left => Some(format!("{identity} (rank {rank}) has left the job")),
                Presence::Absent | Presence::Connected(_) | Presence::Interrupted(_) => None,
            }
        }))
    }

    /// These workers and what is known of them, for a message.
    pub fn describe(&self, ranks: impl IntoIterator<Item = Rank>) -> String {
        list(ranks.into_iter().map(|rank| {
            let Seat { identity, presence } = &self.seats[rank as usize];
            let presence = match presence {
                Presence::Absent => "has not registered",
                Presence::Connected(_) => "connected",
                Presence::Interrupted(_) => "its connection broke",
                Presence::Lost => "lost",
                Presence::Left => "has left",
            };
            format!("{identity} (rank {rank}, {presence})")
        }))
    }

    /// All workers by rank: who, and whether connected.
    pub fn workers(&self) -> impl Iterator<Item = (&Identity, bool)> {
        self.seats.iter().map(|seat| (&seat.identity, matches!(seat.presence, Presence::Connected(_))))
    }

    /// A run that lost all its workers without a goodbye may be taken up again; one that somebody left on purpose and
    /// nobody is in any more is over.
    fn end_if_over(&mut self) -> Run {
        let is_active = |seat: &Seat| matches!(seat.presence, Presence::Connected(_) | Presence::Interrupted(_));
        let has_left = |seat: &Seat| seat.presence == Presence::Left;
        if self.seats.iter().any(is_active) || !self.seats.iter().any(has_left) {
            return Run::GoesOn;
        }
        self.seats.iter_mut().for_each(|seat| seat.presence = Presence::Absent);
        Run::Ended
    }
}

fn list(parts: impl Iterator<Item = String>) -> String {
    /// More names than this tell nobody anything.
    const SHOWN: usize = 8;
    let mut parts = parts.peekable();
    let mut shown: Vec<_> = parts.by_ref().take(SHOWN).collect();
    if parts.peek().is_some() {
        shown.push(format!("and {} more", parts.count()));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(workers: u32) -> Membership {
        Membership::new((0..workers).map(|rank| Identity::new(&format!("worker-{rank}")).expect("a name")))
    }

    #[test]
    fn a_worker_is_lost_only_after_its_grace() {
        let mut members = membership(2);
        members.connect(0, 10);
        members.connect(1, 11);
        assert!(members.disconnect(1, 11));
        assert_eq!(members.gone([0, 1]), "", "it may come back");
        assert_eq!(members.grace_over(1, 11), (true, Run::GoesOn));
        assert_eq!(members.gone([0, 1]), "worker-1 (rank 1) is lost: its connection broke");
    }

    #[test]
    fn a_worker_that_comes_back_is_not_lost_by_the_old_grace() {
        let mut members = membership(1);
        members.connect(0, 10);
        members.disconnect(0, 10);
        assert_eq!(members.connect(0, 20), None);
        assert_eq!(members.grace_over(0, 10), (false, Run::GoesOn));
        members.disconnect(0, 20);
        assert_eq!(members.grace_over(0, 10), (false, Run::GoesOn), "the grace of the second connection counts");
        assert_eq!(members.grace_over(0, 20), (true, Run::GoesOn));
        assert_eq!(members.connect(0, 30), None, "even a lost worker may come back");
        assert_eq!(members.gone([0]), "");
    }

    #[test]
    fn a_second_connection_replaces_the_first_whose_end_then_means_nothing() {
        let mut members = membership(1);
        members.connect(0, 10);
        assert_eq!(members.connect(0, 10), None, "the same connection again");
        assert_eq!(members.connect(0, 20), Some(10));
        assert!(!members.disconnect(0, 10));
        assert!(members.is_connected(0, 20));
    }

    #[test]
    fn leaving_is_no_loss_and_the_last_to_leave_ends_the_run() {
        let mut members = membership(2);
        members.connect(0, 10);
        members.connect(1, 11);
        assert_eq!(members.leave(0, 10), (true, Run::GoesOn));
        assert!(!members.disconnect(0, 10), "no grace for who left");
        assert_eq!(members.gone([0, 1]), "worker-0 (rank 0) has left the job");
        assert_eq!(members.leave(1, 11), (true, Run::Ended));
        assert_eq!(members.gone([0, 1]), "", "the next run waits for everybody");
    }

    #[test]
    fn a_goodbye_by_a_replaced_connection_means_nothing() {
        let mut members = membership(1);
        members.connect(0, 10);
        members.connect(0, 20);
        assert_eq!(members.leave(0, 10), (false, Run::GoesOn), "it was sent before the worker came back");
        assert!(members.is_connected(0, 20));
        assert_eq!(members.leave(0, 20), (true, Run::Ended));
        assert_eq!(members.leave(0, 20), (false, Run::GoesOn), "once is enough");
    }

    #[test]
    fn a_lost_worker_does_not_keep_a_run_from_ending() {
        let mut members = membership(2);
        members.connect(0, 10);
        members.connect(1, 11);
        members.disconnect(1, 11);
        assert_eq!(members.leave(0, 10), (true, Run::GoesOn), "the other may come back within its grace");
        assert_eq!(members.grace_over(1, 11), (true, Run::Ended));
    }

    #[test]
    fn a_run_that_only_lost_its_workers_can_be_taken_up_again() {
        let mut members = membership(1);
        members.connect(0, 10);
        members.disconnect(0, 10);
        assert_eq!(members.grace_over(0, 10), (true, Run::GoesOn));
    }

    #[test]
    fn long_lists_are_cut() {
        assert!(membership(20).describe(0..20).ends_with("and 12 more"));
    }
}
