//! Where the jobs of a transaction stand: who works at what, who waits for whom, how each group ends.
//!
//! One lock for all of them, so whatever several threads do at once has an order: the last job of a group that
//! gets ready, and a cancel that comes a moment before. It is never held while anything is read, written or called.
//! Threads that find nothing to do wait here, too, for any change. Which state follows which is in `states.rs`.
//!
//! A job's way: the threads of the pool [`begin`](Board::begin) a step of it and [`leave`](Board::leave) it, many
//! times. The one that leaves with the last step makes it wait for its group; when all of that wait they are pending,
//! and the next thread that comes along gets the order to end the group; then it calls [`conclude`](Board::conclude). The
//! first failure or cancel takes all of the group to aborting; it ends when nobody is at work at it any more.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use super::{
    permit::{Left, Listener, Notice, Permit, Seat, Verdict, cancelled},
    policy::{Decision, ErrorSide},
    rate_limit::RateLimit,
    states::{JobStatus, Verb, follow, hear},
    sync::{Condvar, Mutex, MutexGuard},
};
use crate::error::{Error, ErrorKind, Result};

/// The jobs of one transaction.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
    changed: Condvar,
    listener: Arc<dyn Listener>,
}

#[derive(Debug)]
struct State {
    jobs: Vec<Standing>,
    /// Counts the changes that somebody may wait for.
    changes: u64,
}

#[derive(Debug)]
struct Standing {
    seat: Seat,
    status: JobStatus,
    error: Option<Error>,
    /// How many threads are in a step of it.
    at_work: usize,
    /// It becomes paused when nobody is at work at it any more.
    pause_wanted: bool,
    /// The error that stopped it.
    stopped_by: Option<Error>,
    finalize_told: bool,
    /// Somebody settles it: what becomes of it is decided.
    settling: bool,
    rate_limit: RateLimit,
}

impl Standing {
    /// Nobody reads its disk, nor changes it, now or later.
    fn at_rest(&self) -> bool {
        let copies = matches!(self.status, JobStatus::Created | JobStatus::Running | JobStatus::Paused);
        !copies && self.at_work == 0 && !self.settling
    }

    fn is_over(&self) -> bool {
        matches!(self.status, JobStatus::Concluded | JobStatus::Dismissed)
    }

    /// Remembers why it fails, unless there is a reason already; a failure of its own replaces having been cancelled.
    fn blame(&mut self, error: Error) {
        match &self.error {
            Some(first) if first.kind() != ErrorKind::Cancelled || error.kind() == ErrorKind::Cancelled => {}
            _ => self.error = Some(error),
        }
    }
}

impl Board {
    pub(crate) fn new(seats: Vec<Seat>, listener: Arc<dyn Listener>) -> Self {
        let standing = |seat: Seat| Standing {
            rate_limit: RateLimit::new(seat.speed),
            seat,
            status: JobStatus::Created,
            error: None,
            at_work: 0,
            pause_wanted: false,
            stopped_by: None,
            finalize_told: false,
            settling: false,
        };
        let jobs = seats.into_iter().map(standing).collect();
        Board { state: Mutex::new(State { jobs, changes: 0 }), changed: Condvar::new(), listener }
    }

    pub(crate) fn status(&self, job: usize) -> JobStatus {
        self.lock().jobs[job].status
    }

    /// Why it failed, if it did.
    pub(crate) fn error(&self, job: usize) -> Option<Error> {
        self.lock().jobs[job].error.clone()
    }

    /// The error that made it pause, while it does.
    pub(crate) fn stopped_by(&self, job: usize) -> Option<Error> {
        self.lock().jobs[job].stopped_by.clone()
    }

    // ---- verbs: what users ask for --------------------------------------------------------------------

    pub(crate) fn pause(&self, job: usize) -> Result<()> {
        self.verb(job, Verb::Pause, |board, state| {
            let standing = &mut state.jobs[job];
            if standing.pause_wanted {
                return Err(wrong_state(format!("{} is already paused", standing.seat.name)));
            }
            standing.pause_wanted = true;
            board.pause_if_idle(state, job);
            Ok(())
        })
    }

    pub(crate) fn resume(&self, job: usize) -> Result<()> {
        self.verb(job, Verb::Resume, |board, state| {
            let standing = &mut state.jobs[job];
            if !standing.pause_wanted {
                return Err(wrong_state(format!("{} is not paused", standing.seat.name)));
            }
            standing.pause_wanted = false;
            standing.stopped_by = None;
            if standing.status == JobStatus::Paused {
                board.move_to(state, job, JobStatus::Running);
            }
            Ok(())
        })
    }

    /// Ends it, and with it all of its group.
    pub(crate) fn cancel(&self, job: usize) -> Result<()> {
        self.verb(job, Verb::Cancel, |board, state| {
            let standing = &state.jobs[job];
            if standing.settling {
                let text = format!("{} is being completed; it is too late to cancel it", standing.seat.name);
                return Err(wrong_state(text));
            }
            board.abort(state, job, cancelled());
            Ok(())
        })
    }

    pub(crate) fn set_speed(&self, job: usize, speed: u64, now: Instant) -> Result<()> {
        self.verb(job, Verb::SetSpeed, |_, state| {
            state.jobs[job].rate_limit.set_speed(speed, now);
            Ok(())
        })
    }

    /// Lets all of its group be completed.
    pub(crate) fn finalize(&self, job: usize) -> Result<()> {
        self.verb(job, Verb::Finalize, |_, state| {
            for other in state.group_of(job) {
                state.jobs[other].finalize_told = true;
            }
            Ok(())
        })
    }

    pub(crate) fn dismiss(&self, job: usize) -> Result<()> {
        self.verb(job, Verb::Dismiss, |board, state| {
            board.move_to(state, job, JobStatus::Dismissed);
            Ok(())
        })
    }

    /// Cancels every job that can be, each for its own sake.
    pub(crate) fn cancel_all(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        for job in 0..state.jobs.len() {
            if state.jobs[job].status.hears(Verb::Cancel) && !state.jobs[job].settling {
                state.jobs[job].blame(cancelled());
                self.move_to_aborting(state, job);
            }
        }
        self.change(state);
    }

    // ---- work: what the transaction's threads do ------------------------------------------------------

    pub(crate) fn start(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        for job in 0..state.jobs.len() {
            if state.jobs[job].status == JobStatus::Created {
                self.move_to(state, job, JobStatus::Running);
                self.pause_if_idle(state, job);
            }
        }
        self.change(state);
    }

    /// What there is to do for one thread at a job.
    pub(crate) fn begin(&self, job: usize, now: Instant) -> Permit {
        let mut state = self.lock();
        let standing = &mut state.jobs[job];
        match standing.status {
            JobStatus::Running if !standing.pause_wanted => match standing.rate_limit.free_at(now) {
                Some(free) => Permit::Later(Some(free)),
                None => {
                    standing.at_work += 1;
                    Permit::Copy { most: standing.rate_limit.slice() }
                }
            },
            JobStatus::Created | JobStatus::Running | JobStatus::Paused | JobStatus::Waiting => {
                Permit::Later(None)
            }
            JobStatus::Pending | JobStatus::Aborting => state.end_group(job),
            JobStatus::Concluded | JobStatus::Dismissed => Permit::Over,
        }
    }

    /// A step of copying has taken this much of the job's speed.
    pub(crate) fn charge(&self, job: usize, bytes: u64, now: Instant) {
        self.lock().jobs[job].rate_limit.take(bytes, now);
    }

    /// When the job may take more, if not now.
    pub(crate) fn free_at(&self, job: usize, now: Instant) -> Option<Instant> {
        self.lock().jobs[job].rate_limit.free_at(now)
    }

    /// A step has met an error, and this is what is done about it. Of several at once that stop a job or let it fail the
    /// first is told.
    pub(crate) fn trouble(&self, job: usize, side: ErrorSide, decision: Decision, error: &Error) {
        let mut state = self.lock();
        let standing = &mut state.jobs[job];
        let again = decision == Decision::Stop && standing.stopped_by.is_some();
        if standing.status != JobStatus::Running || again {
            return;
        }
        let notice = Notice::Error { side, action: decision.action(), error: error.clone() };
        self.listener.told(job, notice);
        match decision {
            Decision::RetryAfter(_) => {}
            Decision::Stop => {
                standing.pause_wanted = true;
                standing.stopped_by = Some(error.clone());
            }
            Decision::Fail => self.abort(&mut state, job, error.clone()),
        }
    }

    /// Ends a step of copying.
    pub(crate) fn leave(&self, job: usize, left: Left) {
        let mut state = self.lock();
        let state = &mut *state;
        state.jobs[job].at_work -= 1;
        let mut changes = true;
        match left {
            // Others who find nothing to do need not look again because of that; who leaves does.
            Left::Idle => changes = false,
            Left::Worked => {}
            Left::Finished if state.jobs[job].status == JobStatus::Running => {
                state.jobs[job].pause_wanted = false;
                state.jobs[job].stopped_by = None;
                self.move_to(state, job, JobStatus::Waiting);
                let group = state.group_of(job);
                if group.iter().all(|other| state.jobs[*other].status == JobStatus::Waiting) {
                    group.iter().for_each(|other| self.move_to(state, *other, JobStatus::Pending));
                }
            }
            Left::Finished => {}
            Left::Failed(error) => self.abort(state, job, error),
        }
        self.pause_if_idle(state, job);
        if changes {
            self.change(state);
        }
    }

    /// A job that is not over fails: all of its group end.
    pub(crate) fn fail(&self, job: usize, error: Error) {
        let mut state = self.lock();
        if !state.jobs[job].is_over() {
            self.abort(&mut state, job, error);
            self.change(&mut state);
        }
    }

    /// Remembers an error that changes nothing any more.
    pub(crate) fn blame(&self, job: usize, error: Error) {
        self.lock().jobs[job].blame(error);
    }

    /// Puts `text: ` before the error's text.
    pub(crate) fn explain(&self, job: usize, text: &str) {
        let standing = &mut self.lock().jobs[job];
        standing.error = standing.error.take().map(|error| error.within(text));
    }

    /// What there was to do for these jobs is done.
    pub(crate) fn conclude(&self, group: &[usize]) {
        let mut state = self.lock();
        for &job in group {
            self.move_to(&mut state, job, JobStatus::Concluded);
            state.jobs[job].settling = false;
            self.listener.told(
                job,
                match state.jobs[job].error.clone() {
                    None => Notice::Completed,
                    Some(error) if error.kind() == ErrorKind::Cancelled => Notice::Cancelled,
                    Some(error) => Notice::Failed(error),
                },
            );
        }
        self.change(&mut state);
    }

    /// The jobs that are not over, whatever became of those who worked at them: they end as failed.
    pub(crate) fn fail_rest(&self, error: &Error) {
        let rest: Vec<usize> = {
            let state = self.lock();
            (0..state.jobs.len()).filter(|job| !state.jobs[*job].is_over()).collect()
        };
        rest.iter().for_each(|job| self.fail(*job, error.clone()));
        self.conclude(&rest);
    }

    /// How many changes there have been.
    pub(crate) fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Waits until there have been more changes than these, or until then.
    pub(crate) fn wait(&self, seen: u64, until: Option<Instant>) {
        let mut state = self.lock();
        while state.changes == seen {
            let Some(until) = until else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until every job that wants to be dismissed is.
    pub(crate) fn wait_dismissed(&self) {
        let mut state = self.lock();
        while state.jobs.iter().any(|job| !job.seat.auto_dismiss && job.status != JobStatus::Dismissed) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nobody will dismiss the jobs any more.
    pub(crate) fn let_go(&self) {
        let mut state = self.lock();
        state.jobs.iter_mut().for_each(|job| job.seat.auto_dismiss = true);
        self.change(&mut state);
    }

    // ---- under the lock -------------------------------------------------------------------------------

    fn verb(&self, job: usize, verb: Verb, act: impl FnOnce(&Self, &mut State) -> Result<()>) -> Result<()> {
        let mut state = self.lock();
        let standing = &state.jobs[job];
        hear(&standing.seat.name, standing.status, verb)?;
        act(self, &mut state)?;
        self.change(&mut state);
        Ok(())
    }

    /// Every change of a state comes through here.
    fn move_to(&self, state: &mut State, job: usize, status: JobStatus) {
        let standing = &mut state.jobs[job];
        if let Err(defect) = follow(&standing.seat.name, standing.status, status) {
            debug_assert!(false, "{defect}");
            standing.error = Some(defect);
        }
        standing.status = status;
        self.listener.told(job, Notice::Status(status));
        self.change(state);
    }

    fn pause_if_idle(&self, state: &mut State, job: usize) {
        let standing = &state.jobs[job];
        if standing.status == JobStatus::Running && standing.pause_wanted && standing.at_work == 0 {
            self.move_to(state, job, JobStatus::Paused);
        }
    }

    /// The job ends early, and with it all of its group.
    fn abort(&self, state: &mut State, job: usize, error: Error) {
        state.jobs[job].blame(error);
        self.move_to_aborting(state, job);
        let because = format!("cancelled because {} ended", state.jobs[job].seat.name);
        for other in state.group_of(job) {
            if state.jobs[other].error.is_none() {
                state.jobs[other].blame(Error::new(ErrorKind::Cancelled, because.clone()));
            }
            self.move_to_aborting(state, other);
        }
    }

    fn move_to_aborting(&self, state: &mut State, job: usize) {
        if state.jobs[job].status == JobStatus::Aborting || state.jobs[job].is_over() {
            return;
        }
        state.jobs[job].pause_wanted = false;
        state.jobs[job].stopped_by = None;
        if state.jobs[job].status == JobStatus::Paused {
            self.move_to(state, job, JobStatus::Running);
        }
        self.move_to(state, job, JobStatus::Aborting);
    }

    fn change(&self, state: &mut State) {
        state.changes += 1;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The numbers of the jobs that stand and fall with this one, itself among them.
    fn group_of(&self, job: usize) -> Vec<usize> {
        let group = self.jobs[job].seat.group;
        (0..self.jobs.len()).filter(|other| self.jobs[*other].seat.group == group).collect()
    }

    /// Gives the end of a job's group to the one who asks, if it is time.
    fn end_group(&mut self, job: usize) -> Permit {
        let group = self.group_of(job);
        let members = || group.iter().map(|member| &self.jobs[*member]);
        let verdict = match self.jobs[job].status {
            JobStatus::Pending => Verdict::Commit,
            _ => Verdict::TakeBack,
        };
        let told = members().all(|member| member.seat.auto_finalize || member.finalize_told);
        let idle = members().all(|member| member.at_work == 0 && !member.settling);
        let disturbs = |other: &Standing| {
            members().any(|member| member.seat.changes_disk && member.seat.disk == other.seat.disk)
        };
        let group_number = self.jobs[job].seat.group;
        let mut others = self.jobs.iter().filter(|other| other.seat.group != group_number);
        let undisturbed = others.all(|other| other.at_rest() || !disturbs(other));
        if !idle || !undisturbed || (verdict == Verdict::Commit && !told) {
            return if verdict == Verdict::Commit { Permit::Later(None) } else { Permit::Stop };
        }
        group.iter().for_each(|member| self.jobs[*member].settling = true);
        Permit::EndGroup { group, verdict }
    }
}

fn wrong_state(text: String) -> Error {
    Error::new(ErrorKind::WrongState, text)
}
