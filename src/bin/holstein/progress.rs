//! Progress bars, on a terminal only, and the signals that ask to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::failure::{FAILED, Failure};

/// A bar on standard error, in bytes. It draws nothing where that is no terminal, and goes when it is done.
pub(crate) fn bar(label: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(label.to_owned());
    style(&bar);
    bar
}

/// A bar for each label, one under the other.
pub(crate) fn bars(labels: impl IntoIterator<Item = String>) -> Vec<ProgressBar> {
    let group = MultiProgress::new();
    labels
        .into_iter()
        .map(|label| {
            let bar = group.add(ProgressBar::new(0)).with_message(label);
            style(&bar);
            bar
        })
        .collect()
}

fn style(bar: &ProgressBar) {
    let template = "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    // The template is a constant; should it not parse, the plain bar does as well.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

/// From here on an interrupt or a termination signal no longer ends the process but is to be asked for with
/// [`stop_requested`], so that what was begun can be removed.
pub(crate) fn catch_signals() -> Result<(), Failure> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))
        .map_err(|error| Failure::new(FAILED, format!("cannot catch signals: {error}")))
}

/// Whether a signal asked to stop.
pub(crate) fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}
