//! Progress bars, on a terminal only.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

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
