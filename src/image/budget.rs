//! How much memory the metadata of a chain may take, counted before anything is allocated.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::error::{Error, ErrorKind, Result};

/// A limit shared by all layers of a chain.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: u64,
    used: AtomicU64,
}

/// Memory that was granted; given back on drop.
#[derive(Debug)]
pub(crate) struct Grant {
    budget: Budget,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Budget(Arc::new(Inner { limit, used: AtomicU64::new(0) }))
    }

    pub(crate) fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Whether at most half of it is in use.
    pub(crate) fn is_half_free(&self) -> bool {
        self.0.used.load(Ordering::Relaxed) <= self.0.limit / 2
    }

    /// Grants `bytes` for `what`, or says that the image needs too much.
    pub(crate) fn grant(&self, bytes: u64, what: &str) -> Result<Grant> {
        let used = self.0.used.fetch_add(bytes, Ordering::Relaxed);
        let grant = Grant { budget: self.clone(), bytes };
        match used.checked_add(bytes) {
            Some(total) if total <= self.0.limit => Ok(grant),
            _ => {
                let text = format!(
                    "its {what} needs {bytes} bytes of memory beside {used} in use, over the limit of {}; \
                     raise the memory limit to open it",
                    self.0.limit
                );
                Err(Error::new(ErrorKind::Limit, text))
            }
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[test]
    fn grants_up_to_the_limit_and_takes_back() {
        let budget = Budget::new(100);
        let first = budget.grant(60, "L1 table").unwrap();
        let error = budget.grant(41, "directory").unwrap_err().to_string();
        assert!(error.contains("directory needs 41 bytes") && error.contains("100"), "{error}");
        drop(first);
        budget.grant(100, "directory").unwrap();
        budget.grant(u64::MAX, "table").unwrap_err();
        budget.grant(100, "directory").unwrap();
    }
}
