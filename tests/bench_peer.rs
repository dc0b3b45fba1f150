//! `make bench` waits for jobs of another program: it loses no event, and each wait ends.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../benches/compare/qmp.rs"]
mod qmp;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use qmp::{Client, Patience};
use serde_json::{Value, json};

const EVENT: &str = r#"{"event": "JOB_STATUS_CHANGE", "data": {"id": "backup0", "status": "concluded"}}"#;

/// A wait that is long for a test: one that lasts as long has lost something.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

/// A peer that greets, takes the capabilities, and gives each further command what `answers` has next: whole lines. Then it
/// reads on, says nothing, and tells at the end which commands came.
fn peer(answers: Vec<Vec<String>>) -> (UnixStream, JoinHandle<Vec<String>>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let thread = thread::spawn(move || {
        let mut answers = answers.into_iter();
        let mut commands = Vec::new();
        writeln!(theirs, r#"{{"QMP": {{"capabilities": []}}}}"#).unwrap();
        for line in BufReader::new(theirs.try_clone().unwrap()).lines() {
            let Ok(line) = line else { break };
            let message: Value = serde_json::from_str(&line).unwrap();
            let command = message["execute"].as_str().unwrap().to_owned();
            let said = match command.as_str() {
                "qmp_capabilities" => vec![json!({"return": {}}).to_string()],
                _ => answers.next().unwrap_or_default(),
            };
            commands.push(command);
            for line in said {
                writeln!(theirs, "{line}").unwrap();
            }
        }
        commands
    });
    (ours, thread)
}

fn client(stream: &UnixStream, patience: Patience) -> Client {
    Client::greet(stream.try_clone().unwrap(), stream.try_clone().unwrap(), patience).unwrap()
}

fn jobs(status: &str, progress: u64) -> String {
    json!({"return": [{"id": "backup0", "status": status, "current-progress": progress}]}).to_string()
}

#[test]
fn an_event_before_the_answer_to_a_query_is_not_lost() {
    // The last event of the job comes first, then an answer that is older than it, then nothing any more.
    let (stream, peer) = peer(vec![vec![EVENT.to_owned(), jobs("running", 1)], vec![jobs("concluded", 2)]]);
    let mut client = client(&stream, Patience { answer: LONG, job: LONG, event: LONG });
    let start = Instant::now();
    client.wait_for("backup0").unwrap();
    assert!(start.elapsed() < LONG / 2, "it waited for another event");
    drop(client);
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(peer.join().unwrap(), ["qmp_capabilities", "query-jobs", "query-jobs"]);
}

#[test]
fn a_job_is_asked_again_when_no_event_comes() {
    let (stream, _peer) =
        peer(vec![vec![jobs("running", 1)], vec![jobs("running", 1)], vec![jobs("concluded", 2)]]);
    let mut client = client(&stream, Patience { answer: LONG, job: LONG, event: SHORT });
    client.wait_for("backup0").unwrap();
}

#[test]
fn a_job_without_progress_is_an_error_that_names_it() {
    let (stream, _peer) = peer(vec![vec![jobs("running", 7)]; 1000]);
    let mut client = client(&stream, Patience { answer: LONG, job: 3 * SHORT, event: SHORT });
    let error = client.wait_for("backup0").unwrap_err().to_string();
    assert!(error.contains("the end of the job backup0") && error.contains(r#"["running",7]"#), "{error}");
}

#[test]
fn an_answer_that_does_not_come_is_an_error_that_names_the_command() {
    let (stream, _peer) = peer(vec![]);
    let mut client = client(&stream, Patience { answer: SHORT, job: LONG, event: LONG });
    let error = client.execute("blockdev-add", json!({})).unwrap_err().to_string();
    assert!(error.contains("waited 0.02 s for the answer to blockdev-add"), "{error}");
}

#[test]
fn a_job_that_failed_and_one_that_is_gone_are_errors() {
    let failed =
        json!({"return": [{"id": "backup0", "status": "concluded", "error": "no room"}]}).to_string();
    let (stream, _peer) = peer(vec![vec![failed], vec![json!({"return": []}).to_string()]]);
    let mut client = client(&stream, Patience { answer: LONG, job: LONG, event: LONG });
    assert!(client.wait_for("backup0").unwrap_err().to_string().contains("no room"));
    assert!(client.wait_for("backup0").unwrap_err().to_string().contains("lost its job backup0"));
}

#[test]
fn a_peer_that_does_not_end_is_an_error() {
    let (stream, _peer) = peer(vec![]);
    let client = client(&stream, Patience { answer: LONG, job: LONG, event: LONG });
    assert!(client.closed(SHORT).unwrap_err().to_string().contains("the daemon to end"));
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    client.closed(LONG).unwrap();
}
