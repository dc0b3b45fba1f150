//! What a job does about errors of input and output.

use std::{fmt, time::Duration};

use crate::error::{Error, ErrorKind};

/// The first pause before an ignored error is tried again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often what failed is tried again before the error counts.
const RETRIES: u32 = 10;

/// What to do about an error of input or output. Damage in the source, and a failed sync of the target, always
/// end the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// The job fails.
    #[default]
    Report,
    /// The same piece is tried again after a pause, from 10 ms up to 1 s, 10 times at most; then the job fails.
    /// Nothing is ever left out.
    Ignore,
    /// The job pauses when there is no space left; else it fails.
    Enospc,
    /// The job pauses; when it is resumed it tries the same piece again.
    Stop,
}

/// Where an error came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorSide {
    /// Reading the source or an image below it.
    Source,
    /// Writing the target.
    Target,
}

/// What a job did about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// It fails.
    Report,
    /// It tries again after a pause.
    Ignore,
    /// It pauses.
    Stop,
}

/// An error and where it came from; `None` where no policy has a say.
pub(crate) struct Trouble {
    pub(crate) side: Option<ErrorSide>,
    pub(crate) error: Error,
}

impl Trouble {
    pub(crate) fn source(error: Error) -> Self {
        Trouble { side: Some(ErrorSide::Source), error }
    }

    pub(crate) fn target(error: Error) -> Self {
        Trouble { side: Some(ErrorSide::Target), error }
    }
}

/// No policy has a say.
impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble { side: None, error }
    }
}

/// What an [`ErrorPolicy`] demands about one error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Fail,
    RetryAfter(Duration),
    Stop,
}

impl Decision {
    pub(crate) fn action(self) -> ErrorAction {
        match self {
            Decision::Fail => ErrorAction::Report,
            Decision::RetryAfter(_) => ErrorAction::Ignore,
            Decision::Stop => ErrorAction::Stop,
        }
    }
}

impl ErrorPolicy {
    /// What to do when the same piece has failed `retries` times before.
    pub(crate) fn decide(self, error: &Error, retries: u32) -> Decision {
        match self {
            ErrorPolicy::Stop => Decision::Stop,
            ErrorPolicy::Enospc if error.kind() == ErrorKind::NoSpace => Decision::Stop,
            ErrorPolicy::Ignore if retries < RETRIES => {
                Decision::RetryAfter((FIRST_PAUSE * 2_u32.pow(retries)).min(LONGEST_PAUSE))
            }
            ErrorPolicy::Report | ErrorPolicy::Enospc | ErrorPolicy::Ignore => Decision::Fail,
        }
    }
}

/// Whether a policy has a say: only where trying again can help.
pub(crate) fn is_retryable(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::Permission => true,
        // The operating system's memory, not ours.
        ErrorKind::NoMemory => error.errno().is_some(),
        _ => false,
    }
}

impl fmt::Display for ErrorSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorSide::Source => "source",
            ErrorSide::Target => "target",
        })
    }
}

impl fmt::Display for ErrorAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorAction::Report => "report",
            ErrorAction::Ignore => "ignore",
            ErrorAction::Stop => "stop",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_policy_does_about_each_error() {
        use Decision::{Fail, Stop};
        let after = |ms| Decision::RetryAfter(Duration::from_millis(ms));
        let full = Error::new(ErrorKind::NoSpace, "full");
        let broken = Error::new(ErrorKind::Io, "broken");
        for (policy, when_full, when_broken) in [
            (ErrorPolicy::Report, Fail, Fail),
            (ErrorPolicy::Ignore, after(10), after(10)),
            (ErrorPolicy::Enospc, Stop, Fail),
            (ErrorPolicy::Stop, Stop, Stop),
        ] {
            assert_eq!(policy.decide(&full, 0), when_full, "{policy:?}");
            assert_eq!(policy.decide(&broken, 0), when_broken, "{policy:?}");
        }
        let pauses: Vec<_> = (0..11).map(|retries| ErrorPolicy::Ignore.decide(&broken, retries)).collect();
        let expected = [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000].map(after);
        assert_eq!(pauses[..10], expected);
        assert_eq!(pauses[10], Fail);
    }
}
