//! Who lies on whom: the claims on the clusters that a check has found to be suspect.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use zerocopy::big_endian::U64;

use super::{
    CheckProblemKind, CheckReport,
    structure::{Claimant, Structure, Visitor},
    tables::{L2Table, L2Tables},
};
use crate::{error::Result, format::l2};

/// More claims on one cluster are not told apart.
const MAX_CLAIMS: usize = 16;

/// The claims on each suspect cluster.
struct Claims {
    cluster_bits: u32,
    of: BTreeMap<u64, Vec<Claimant>>,
}

/// Looks for all claims on the suspect clusters, and reports those that exclude each other.
pub(super) fn report_overlaps(
    structure: &Structure<'_>,
    tables: &L2Tables,
    refcount_table: &[u64],
    suspects: &BTreeSet<u64>,
    report: &mut CheckReport,
) -> Result<()> {
    if suspects.is_empty() {
        return Ok(());
    }
    let cluster_bits = structure.geometry().cluster_bits;
    let of = suspects.iter().map(|cluster| (*cluster, Vec::new())).collect();
    let mut claims = Claims { cluster_bits, of };
    structure.visit(tables, refcount_table, &mut claims)?;
    if !structure.header.has(crate::format::header::incompatible::DATA_FILE) {
        tables.for_each_content(structure, |table, words| {
            claims.add_guest_data(structure, table, words);
            Ok(())
        })?;
    }
    for (cluster, claimants) in &claims.of {
        let Some((first, second)) = overlap(claimants) else { continue };
        let at = cluster << cluster_bits;
        report.add(CheckProblemKind::Overlap, 1, Some(at), 1, || {
            let (first, second) = (structure.describe(first), structure.describe(second));
            format!("{second} lies on {first}, at {at:#x}")
        });
    }
    Ok(())
}

impl Claims {
    fn add(&mut self, host: &Range<u64>, owner: Claimant) {
        let clusters = host.start >> self.cluster_bits..host.end.div_ceil(1 << self.cluster_bits);
        if clusters.is_empty() {
            return;
        }
        for (_, claims) in self.of.range_mut(clusters) {
            if claims.len() < MAX_CLAIMS {
                claims.push(owner);
            }
        }
    }

    fn add_guest_data(&mut self, structure: &Structure<'_>, table: &L2Table, words: &[U64]) {
        let geometry = structure.geometry();
        let step = (geometry.l2_entry_size() / 8) as usize;
        for (index, entry) in words.iter().step_by(step).enumerate() {
            let host = l2::host_range(entry.get(), geometry);
            if !host.is_empty() {
                let compressed = entry.get() & l2::COMPRESSED != 0;
                self.add(&host, Claimant::Guest { table: *table, index: index as u64, compressed });
            }
        }
    }
}

impl Visitor for Claims {
    fn part(&mut self, host: Range<u64>, owner: Claimant, _weight: u32) -> Result<()> {
        self.add(&host, owner);
        Ok(())
    }
}

/// Two claims of which one must be wrong. Metadata has its clusters for itself; guest data may be shared with
/// snapshots, and compressed data with other compressed data.
fn overlap(claims: &[Claimant]) -> Option<(Claimant, Claimant)> {
    let (first, rest) = claims.split_first()?;
    if !matches!(first, Claimant::Guest { .. }) {
        return rest.first().map(|second| (*first, *second));
    }
    let compressed = |claim: &Claimant| matches!(claim, Claimant::Guest { compressed: true, .. });
    let mut active: Vec<_> = claims.iter().filter(|claim| is_active(claim)).copied().collect();
    active.sort_by_key(compressed);
    match active[..] {
        [first, second, ..] if !compressed(&first) => Some((first, second)),
        _ => None,
    }
}

fn is_active(claim: &Claimant) -> bool {
    matches!(claim, Claimant::Guest { table, .. } if table.index.is_some())
}
