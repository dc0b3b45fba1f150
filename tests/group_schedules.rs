//! The board of a transaction's jobs under many schedules: threads that work, and users who pause, resume, cancel and
//! finalize at any moment. No schedule may end in a deadlock, leave a job behind, or split a group.
//!
//! The board's sources are built here once more, with locks whose scheduler shuttle decides.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test
#![allow(dead_code, unreachable_pub)] // the sources are the library's

#[path = "../src/job/board.rs"]
mod board;
#[path = "../src/job/permit.rs"]
mod permit;
#[path = "../src/job/policy.rs"]
mod policy;
#[path = "../src/job/rate_limit.rs"]
mod rate_limit;
#[path = "../src/job/states.rs"]
mod states;

mod error {
    pub use holstein::{Error, ErrorKind, Result};
}

mod sync {
    pub use shuttle::sync::{Condvar, Mutex, MutexGuard};
}

use std::{sync::Arc, time::Instant};

use board::Board;
use error::{Error, ErrorKind};
use permit::{Left, Listener, Notice, Permit, Seat, Verdict};
use policy::{Decision, ErrorSide};
use shuttle::{
    rand::{Rng, thread_rng},
    thread,
};
use states::{JobStatus, Verb};

/// What was told of each job. No scheduler has a say in it, for it is used under the board's lock alone.
#[derive(Debug, Default)]
struct Told(std::sync::Mutex<Vec<(usize, Notice)>>);

impl Listener for Told {
    fn told(&self, job: usize, notice: Notice) {
        self.0.lock().unwrap().push((job, notice));
    }
}

/// Copying, reduced to counting.
#[derive(Debug, Default)]
struct Copying {
    steps_left: usize,
    at_work: usize,
    finishing: bool,
    settled: Option<Verdict>,
}

struct Model {
    board: Board,
    told: Arc<Told>,
    copies: Vec<sync::Mutex<Copying>>,
    groups: Vec<usize>,
    disks: Vec<usize>,
    /// Of a thousand steps so many fail, and so many stop the job.
    failing: u32,
    stopping: u32,
}

fn seat(index: usize, group: usize) -> Seat {
    Seat {
        name: format!("job {index}"),
        group,
        disk: index,
        changes_disk: true,
        speed: 0,
        auto_finalize: true,
        auto_dismiss: true,
    }
}

impl Model {
    fn new(seats: Vec<Seat>, steps: usize, failing: u32, stopping: u32) -> Arc<Self> {
        let told = Arc::<Told>::default();
        let groups = seats.iter().map(|seat| seat.group).collect();
        let disks = seats.iter().map(|seat| seat.disk).collect();
        let copying = |_: &Seat| sync::Mutex::new(Copying { steps_left: steps, ..Copying::default() });
        let copies = seats.iter().map(copying).collect();
        let board = Board::new(seats, told.clone());
        Arc::new(Model { board, told, copies, groups, disks, failing, stopping })
    }

    /// As the threads of a transaction do it.
    fn work(&self) {
        loop {
            let seen = self.board.changes();
            let (mut worked, mut over) = (false, 0);
            for job in 0..self.copies.len() {
                match self.board.begin(job, Instant::now()) {
                    Permit::Copy { .. } => {
                        let left = self.step(job);
                        worked |= !matches!(left, Left::Idle);
                        self.board.leave(job, left);
                    }
                    Permit::EndGroup { group, verdict } => {
                        self.settle(&group, verdict);
                        worked = true;
                    }
                    Permit::Over => over += 1,
                    Permit::Stop | Permit::Later(_) => {}
                }
            }
            if over == self.copies.len() {
                return;
            }
            if !worked {
                self.board.wait(seen, None);
            }
        }
    }

    fn step(&self, job: usize) -> Left {
        {
            let mut copying = self.copies[job].lock().unwrap();
            assert_eq!(copying.settled, None, "job {job} is settled and copies on");
            assert_ne!(self.board.status(job), JobStatus::Paused, "job {job} works while it is paused");
            if copying.steps_left > 0 {
                copying.steps_left -= 1;
            } else if copying.at_work == 0 && !copying.finishing {
                copying.finishing = true;
            } else {
                return Left::Idle;
            }
            copying.at_work += 1;
        }
        thread::yield_now();
        let mut copying = self.copies[job].lock().unwrap();
        copying.at_work -= 1;
        let chance = thread_rng().gen_range(0..1000);
        let error = Error::new(ErrorKind::Io, format!("of job {job} itself"));
        if chance < self.failing {
            return Left::Failed(error);
        }
        if chance < self.failing + self.stopping {
            self.board.trouble(job, ErrorSide::Source, Decision::Stop, &error);
            // It is to be done again.
            if copying.finishing {
                copying.finishing = false;
            } else {
                copying.steps_left += 1;
            }
            return Left::Worked;
        }
        if copying.finishing { Left::Finished } else { Left::Worked }
    }

    fn settle(&self, group: &[usize], verdict: Verdict) {
        for job in group {
            let mut copying = self.copies[*job].lock().unwrap();
            assert_eq!(copying.at_work, 0, "job {job} is settled while somebody is at work");
            assert_eq!(copying.settled.replace(verdict), None, "job {job} is settled twice");
        }
        for _ in 0..2 {
            thread::yield_now();
            for job in 0..self.copies.len() {
                let shared = group.iter().any(|member| self.disks[*member] == self.disks[job]);
                let at_work = self.copies[job].lock().unwrap().at_work;
                assert!(!shared || at_work == 0, "job {job} reads the disk that is changed");
            }
        }
        self.board.conclude(group);
    }

    /// Somebody who sees to it that nothing waits for ever.
    fn look_after(&self) {
        loop {
            let seen = self.board.changes();
            let mut over = 0;
            for job in 0..self.copies.len() {
                match self.board.status(job) {
                    JobStatus::Paused | JobStatus::Running => drop(self.board.resume(job)),
                    JobStatus::Pending => drop(self.board.finalize(job)),
                    JobStatus::Concluded => drop(self.board.dismiss(job)),
                    JobStatus::Dismissed => over += 1,
                    JobStatus::Created | JobStatus::Waiting | JobStatus::Aborting => {}
                }
            }
            if over == self.copies.len() {
                return;
            }
            self.board.wait(seen, None);
        }
    }

    fn verb(&self, job: usize) {
        let _ = match thread_rng().gen_range(0..5) {
            0 => self.board.pause(job),
            1 => self.board.resume(job),
            2 => self.board.cancel(job),
            3 => self.board.finalize(job),
            _ => self.board.pause(job).and_then(|()| self.board.pause(job)),
        };
    }

    /// Everything has ended as it shall.
    fn judge(&self) {
        let told = self.told.0.lock().unwrap();
        for job in 0..self.copies.len() {
            let mut status = JobStatus::Created;
            let mut ends = Vec::new();
            for (_, notice) in told.iter().filter(|(index, _)| *index == job) {
                match notice {
                    Notice::Status(next) => {
                        assert!(status.may_become(*next), "job {job}: {status} to {next}");
                        status = *next;
                    }
                    Notice::Error { .. } => {}
                    end => ends.push(end.clone()),
                }
            }
            assert_eq!(status, JobStatus::Dismissed, "job {job}");
            let settled = self.copies[job].lock().unwrap().settled;
            let error = self.board.error(job);
            match (&ends[..], settled) {
                ([Notice::Completed], Some(Verdict::Commit)) => assert!(error.is_none()),
                ([Notice::Failed(told)], Some(Verdict::TakeBack)) => {
                    assert_eq!(told.to_string(), format!("of job {job} itself"));
                    assert_eq!(error.unwrap().to_string(), told.to_string());
                }
                ([Notice::Cancelled], Some(Verdict::TakeBack)) => {
                    let text = error.unwrap().to_string();
                    let because = text.starts_with("cancelled because job ") && text.ends_with(" ended");
                    assert!(text == "the backup was cancelled" || because, "{text}");
                }
                other => panic!("job {job} ended as {other:?}"),
            }
            let group = self.groups[job];
            for (other, _) in self.groups.iter().enumerate().filter(|(_, number)| **number == group) {
                assert_eq!(
                    self.copies[other].lock().unwrap().settled,
                    settled,
                    "the group of job {job} is split"
                );
            }
        }
    }
}

/// Runs a model in 10,000 schedules, with two threads that work, two users, and somebody who looks after it.
fn schedules(model: impl Fn() -> Arc<Model> + Send + Sync + 'static) {
    let run = move || {
        let model = model();
        let mut threads = Vec::new();
        for _ in 0..2 {
            let model = model.clone();
            threads.push(thread::spawn(move || model.work()));
        }
        for _ in 0..2 {
            let model = model.clone();
            threads.push(thread::spawn(move || {
                for _ in 0..2 {
                    // Not all at the beginning.
                    (0..thread_rng().gen_range(0..30)).for_each(|_| thread::yield_now());
                    model.verb(thread_rng().gen_range(0..model.copies.len()));
                }
            }));
        }
        let keeper = model.clone();
        threads.push(thread::spawn(move || keeper.look_after()));
        model.board.start();
        model.board.wait_dismissed();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        model.judge();
    };
    let exhaustive = std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some();
    shuttle::check_random(run, if exhaustive { 200_000 } else { 10_000 });
}

fn to_be_dismissed(mut seat: Seat) -> Seat {
    seat.auto_dismiss = false;
    seat
}

#[test]
fn a_group_of_three() {
    schedules(|| {
        let seats = (0..3).map(|index| to_be_dismissed(seat(index, 0))).collect();
        Model::new(seats, 2, 30, 30)
    });
}

#[test]
fn a_group_that_is_finalized_by_hand() {
    schedules(|| {
        let mut seats: Vec<_> = (0..2).map(|index| to_be_dismissed(seat(index, 0))).collect();
        seats[1].auto_finalize = false;
        Model::new(seats, 1, 20, 20)
    });
}

/// Two groups of one disk, which is changed when nobody reads it.
#[test]
fn groups_that_share_a_disk() {
    schedules(|| {
        let mut seats: Vec<_> = (0..3).map(|index| to_be_dismissed(seat(index, index))).collect();
        seats[0].disk = 2;
        seats[0].auto_finalize = false;
        Model::new(seats, 1, 20, 20)
    });
}

/// Verbs that are heard before a job begins, which no user is quick enough for.
#[test]
fn jobs_that_have_not_begun() {
    shuttle::check_random(
        || {
            let model = Model::new(vec![seat(0, 0), seat(1, 0)], 1, 0, 0);
            let board = &model.board;
            assert_eq!(board.status(0), JobStatus::Created);
            assert_eq!(board.begin(0, Instant::now()), Permit::Later(None));
            for (verb, refused) in [(Verb::Finalize, board.finalize(0)), (Verb::Dismiss, board.dismiss(0))] {
                let error = refused.unwrap_err();
                assert!(
                    error.to_string().starts_with(&format!("job 0 is created and cannot be told to {verb}"))
                );
            }
            board.set_speed(0, 5, Instant::now()).unwrap();
            board.pause(0).unwrap();
            assert!(board.pause(0).is_err());
            board.start();
            assert_eq!((board.status(0), board.status(1)), (JobStatus::Paused, JobStatus::Running));
            board.cancel(0).unwrap();

            let model = Model::new(vec![seat(0, 0), seat(1, 0)], 1, 0, 0);
            model.board.cancel(1).unwrap();
            model.board.start();
            model.work();
            let texts = [0, 1].map(|job| model.board.error(job).unwrap().to_string());
            assert_eq!(texts, ["cancelled because job 1 ended", "the backup was cancelled"]);
        },
        1,
    );
}

/// A change that the table does not have is a defect, and is told as one.
#[test]
fn a_forbidden_change_is_a_defect() {
    let error = states::follow(&"job 7", JobStatus::Paused, JobStatus::Waiting).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert_eq!(error.to_string(), "internal error (please report it): job 7 went from paused to waiting");
}

/// Nobody gets past the table: the end of a job that still copies.
#[test]
#[should_panic(expected = "job 0 went from running to concluded")]
fn a_job_cannot_be_ended_from_anywhere() {
    shuttle::check_random(
        || {
            let model = Model::new(vec![seat(0, 0)], 1, 0, 0);
            model.board.start();
            model.board.conclude(&[0]);
        },
        1,
    );
}
