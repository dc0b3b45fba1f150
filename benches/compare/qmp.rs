//! A conversation over QMP in which no message is lost and no wait is without a bound.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// An error ends the run with its text.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long a wait may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the answer to a command.
    pub(crate) answer: Duration,
    /// For a job that makes no progress.
    pub(crate) job: Duration,
    /// For an event, before the job is asked again.
    pub(crate) event: Duration,
}

/// Our side of the conversation.
pub(crate) struct Client {
    input: Box<dyn Write + Send>,
    /// What a thread reads; it ends with the peer's output.
    messages: Receiver<std::io::Result<String>>,
    /// Events that came while an answer was waited for, oldest first.
    events: VecDeque<Value>,
    patience: Patience,
}

impl Client {
    /// Takes the greeting and the peer's capabilities.
    pub(crate) fn greet(
        input: impl Write + Send + 'static,
        output: impl Read + Send + 'static,
        patience: Patience,
    ) -> Result<Client> {
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut client = Client { input: Box::new(input), messages, events: VecDeque::new(), patience };
        client
            .receive(Instant::now() + patience.answer)?
            .ok_or_else(|| late("its greeting", patience.answer))?;
        client.execute("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// The next message; none when `until` has come.
    fn receive(&self, until: Instant) -> Result<Option<Value>> {
        match self.messages.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(serde_json::from_str(&line?)?)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("the daemon went away".into()),
        }
    }

    /// Sends one command and gives its answer. Events that come before the answer are kept.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        writeln!(self.input, "{}", json!({"execute": command, "arguments": arguments}))?;
        self.input.flush()?;
        let until = Instant::now() + self.patience.answer;
        loop {
            let Some(mut message) = self.receive(until)? else {
                return Err(late(&format!("the answer to {command}"), self.patience.answer));
            };
            if let Some(error) = message.get("error") {
                return Err(format!("qemu-storage-daemon: {command}: {error}").into());
            }
            match message.get_mut("return") {
                Some(answer) => return Ok(answer.take()),
                None => self.events.push_back(message),
            }
        }
    }

    /// Waits until the peer has closed its output, as it does when it ends.
    pub(crate) fn closed(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            match self.messages.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => return Err(late("the daemon to end", patience)),
            }
        }
    }

    /// Waits until the job has ended; its failure is ours.
    ///
    /// Its state is asked for, not read from events: they only say when to ask again. One that came before the answer is
    /// a reason to ask again, since it may be younger than the answer.
    pub(crate) fn wait_for(&mut self, id: &str) -> Result<()> {
        let mut progress = Value::Null;
        let mut moved = Instant::now();
        loop {
            self.events.clear(); // the answer is younger than all of them
            let jobs = self.execute("query-jobs", json!({}))?;
            let job = jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job["id"] == id));
            let job = job.ok_or_else(|| format!("the daemon lost its job {id}"))?;
            if job["status"] == "concluded" {
                return match job.get("error") {
                    Some(error) => Err(format!("qemu-storage-daemon: {error}").into()),
                    None => Ok(()),
                };
            }
            let now = json!([job["status"], job["current-progress"]]);
            if now != progress {
                (progress, moved) = (now, Instant::now());
            } else if moved.elapsed() >= self.patience.job {
                let what = format!("the end of the job {id}, which stays at {progress}");
                return Err(late(&what, self.patience.job));
            }
            if self.events.is_empty()
                && let Some(event) = self.receive(Instant::now() + self.patience.event)?
            {
                self.events.push_back(event);
            }
        }
    }
}

fn late(what: &str, waited: Duration) -> Box<dyn std::error::Error> {
    format!("qemu-storage-daemon: waited {} s for {what}", waited.as_secs_f64()).into()
}
