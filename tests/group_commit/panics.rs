//! A defect of ours, a panic at any write, loses nothing: what is decided then stays, and what is not goes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
};

use holstein::{
    RecoveryKind,
    storage::{SimulatedStorage, simulated::OperationKind},
};

use crate::{night::Night, strangers::holds};

const DEFECT: &str = "a defect on purpose";

pub fn lose_nothing(night: &Night) {
    keep_quiet();
    let whole = night.storage();
    night.run(&whole).unwrap();
    let total = whole.calls(OperationKind::Write);
    let mut ends = [0, 0];
    for nth in 0..total {
        let (storage, count) = (night.storage(), AtomicU64::new(0));
        storage.before_write(move |_| {
            if count.fetch_add(1, Ordering::Relaxed) == nth {
                std::panic::panic_any(DEFECT);
            }
        });
        let result = catch_unwind(AssertUnwindSafe(|| night.run(&storage)));
        storage.before_write(|_| {});
        match judge(night, &storage) {
            Ok(all) => ends[usize::from(all)] += 1,
            Err(reason) => panic!("{}: a panic at write {nth}: {result:?}, then: {reason}", night.name),
        }
    }
    println!("{}: {total} panics; nothing {}, all {}", night.name, ends[0], ends[1]);
    assert!(ends[0] > 10 && ends[1] > 0, "{ends:?}");
}

/// Whether all targets are there; an error if that, or anything else, is not as it has to be.
fn judge(night: &Night, storage: &SimulatedStorage) -> Result<bool, String> {
    let recovery = night.recover(storage).map_err(|e| e.to_string())?;
    let waits = |kind| matches!(kind, RecoveryKind::Unfinished | RecoveryKind::AtWork);
    if let Some(item) = recovery.items.iter().find(|item| waits(item.kind)) {
        return Err(format!("{item:?}"));
    }
    night.again(storage)?;
    holds(night, storage, None).map_err(|reason| format!("{reason}; {recovery:?}"))?;
    Ok(night.backups.iter().all(|backup| storage.contents(backup.target) != backup.replaced))
}

/// Says nothing about panics that are meant to be.
fn keep_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&DEFECT) {
                others(info);
            }
        }));
    });
}
