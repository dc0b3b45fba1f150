//! Mutators that know the format. After libFuzzer's own mutation most fields get a value again that is not refused at
//! once; or a table entry is changed on purpose and everything else left alone.

use crate::{
    builder::field::*,
    judges::{bitmap_directory::Input, u16_at, u32_at, u64_at},
};

/// Numbers that depend on the seed alone (splitmix64).
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit.max(1)
    }

    /// True once in `times`.
    fn rarely(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Whether this mutation is one of structures alone.
pub fn structured(seed: u32) -> bool {
    seed.is_multiple_of(3)
}

fn put(data: &mut [u8], at: u64, bytes: &[u8]) {
    let start = at.min(data.len() as u64) as usize;
    let count = bytes.len().min(data.len() - start);
    data[start..start + count].copy_from_slice(&bytes[..count]);
}

fn put_u16(data: &mut [u8], at: u64, value: u64) {
    put(data, at, &(value as u16).to_be_bytes());
}

fn put_u32(data: &mut [u8], at: u64, value: u64) {
    put(data, at, &(value as u32).to_be_bytes());
}

fn put_u64(data: &mut [u8], at: u64, value: u64) {
    put(data, at, &value.to_be_bytes());
}

/// Headers whose numbers can be, for most of them.
pub fn header(data: &mut [u8], seed: u32) {
    let mut random = Random(seed.into());
    if !random.rarely(10) {
        fix_header(data, &mut random, u64::MAX >> 1);
    }
}

/// Puts the header's fields right, each with a small chance of being left as it is. Tables begin before `end`.
fn fix_header(data: &mut [u8], random: &mut Random, end: u64) {
    const LEFT: u64 = 40;
    let mut fix = |data: &mut [u8], at, right: &dyn Fn(u64) -> u64| {
        if !random.rarely(LEFT) {
            put_u32(data, at, right(u32_at(data, at)));
        }
    };
    fix(data, MAGIC, &|_| 0x5146_49FB);
    fix(data, VERSION, &|version| if version == 2 { 2 } else { 3 });
    fix(data, CLUSTER_BITS, &|bits| if (9..=21).contains(&bits) { bits } else { 9 + bits % 8 });
    fix(data, CRYPT_METHOD, &|_| 0);
    fix(data, REFCOUNT_ORDER, &|order| if order > 6 { order % 7 } else { order });
    fix(data, HEADER_LENGTH, &|length| match length {
        0..104 => 104,
        112.. => 112,
        other => other / 8 * 8,
    });
    fix(data, BACKING_SIZE, &|size| size % 1024);
    fix(data, REFTABLE_CLUSTERS, &|clusters| if clusters > 16 { 1 + clusters % 16 } else { clusters.max(1) });
    fix(data, NB_SNAPSHOTS, &|count| if count > 4 { count % 4 } else { count });
    fix(data, L1_SIZE, &|entries| if entries > 4096 { entries % 4096 } else { entries });

    let mut incompatible = u64_at(data, INCOMPATIBLE) & 0x1F;
    let bits = u32_at(data, CLUSTER_BITS);
    if bits < 14 {
        incompatible &= !EXTENDED_L2;
    }
    let zstd = u32_at(data, HEADER_LENGTH) > 104 && incompatible & COMPRESSION != 0;
    incompatible = if zstd { incompatible } else { incompatible & !COMPRESSION };
    if !random.rarely(LEFT) {
        put_u64(data, INCOMPATIBLE, incompatible);
        put(data, COMPRESSION_TYPE, &[u8::from(zstd)]);
    }
    if !(9..=21).contains(&bits) || random.rarely(LEFT) {
        return;
    }
    for at in [L1_OFFSET, REFTABLE_OFFSET, SNAPSHOTS_OFFSET] {
        let offset = u64_at(data, at);
        let right = if offset >= end { offset % end } else { offset } >> bits << bits;
        put_u64(data, at, if right == 0 && at != SNAPSHOTS_OFFSET { 1 << bits } else { right });
    }
    let cluster = 1u64 << bits;
    let per_l2 = cluster / if incompatible & EXTENDED_L2 != 0 { 16 } else { 8 };
    let most = u128::from(u32_at(data, L1_SIZE)) * u128::from(per_l2 * cluster);
    if u128::from(u64_at(data, SIZE)) > most {
        put_u64(data, SIZE, most as u64);
    }
    let start = if u32_at(data, VERSION) == 2 { 72 } else { u32_at(data, HEADER_LENGTH) };
    let name = u64_at(data, BACKING_OFFSET);
    if name > cluster - 16 || name != 0 && name < start {
        put_u64(data, BACKING_OFFSET, if random.rarely(2) { 0 } else { start + name % 64 * 8 });
    }
    fix_extensions(data, start);
}

/// No extension is longer than what follows it.
fn fix_extensions(data: &mut [u8], start: u64) {
    let end = (data.len() as u64).min(1 << u32_at(data, CLUSTER_BITS).min(21));
    let mut at = start;
    while at + 8 <= end {
        let (kind, length) = (u32_at(data, at), u32_at(data, at + 4));
        let right = match kind as u32 {
            0 => return,
            EXT_BITMAPS => 24,
            EXT_LUKS => 16,
            EXT_FEATURE_NAMES => length / 48 * 48,
            EXT_BACKING_FORMAT => length % 16,
            _ => length,
        };
        let right = if at + 8 + right > end { (end - at - 8) / 48 * 48 } else { right };
        put_u32(data, at + 4, right);
        at += 8 + right.next_multiple_of(8);
    }
}

/// Tables whose entries lead to clusters that are there, for most of them.
pub fn l2(data: &mut [u8], seed: u32) {
    const HEAD: u64 = 8;
    let mut random = Random(seed.into());
    let Some(words) = (data.len() as u64).checked_sub(HEAD).map(|bytes| bytes / 8).filter(|words| *words > 0)
    else {
        return;
    };
    let extended = data[1] & 1 != 0;
    let bits = if extended { 14 + u64::from(data[0]) % 2 } else { 9 + u64::from(data[0]) % 5 };
    for _ in 0..random.below(8) {
        let number = random.below(words);
        let at = HEAD + number * 8;
        // A few clusters of tables come first, then those of data.
        let place = random.below(12) << bits;
        let word = match random.below(12) {
            _ if extended && number % 2 == 1 => match random.below(4) {
                0 => random.word() & 0xFFFF_FFFF,
                1 => random.word() << 32,
                2 => u64::from(u32::MAX),
                _ => random.word() & !(random.word() << 32),
            },
            0 => 0,
            1 => ZERO,
            2 => place | COPIED | ZERO,
            3 => COMPRESSED | random.below(4) << (62 - (bits - 8)) | place + random.below(1 << bits),
            4 => u64_at(data, at) ^ 1 << random.below(64),
            // Goes on where the entry before ends.
            5..8 if number > 0 => u64_at(data, at - 8).wrapping_add(1 << bits),
            _ => place | COPIED,
        };
        put_u64(data, at, word);
    }
}

/// Directories of the length that is told, with tables that have the right length and lie in the body.
pub fn bitmap_directory(data: &mut [u8], seed: u32) {
    const HEAD: u64 = 12;
    let mut random = Random(seed.into());
    if random.rarely(10) {
        return;
    }
    // No features that make all bitmaps unusable, for most.
    if !random.rarely(8) && data.len() > 6 {
        data[6] &= 0x18;
    }
    let Some(input) = Input::parse(data) else { return };
    let (start, clusters) = (input.start(), input.clusters());
    let bits = 9 + u32::from(data[0] % 4);
    let entries_for = |granularity: u32| input.table_entries(granularity);
    let lengths: Vec<u64> = (0..32).map(|g| if g < 9 { 0 } else { entries_for(g) }).collect();
    let wanted = 1 + u64::from(data[3] % 4);
    let (mut at, mut count) = (HEAD, 0);
    let mut tables = Vec::new();
    while count < wanted && at + 32 <= data.len() as u64 {
        let name_size = u16_at(data, at + DIR_NAME_SIZE);
        let name_size = if (1..=64).contains(&name_size) { name_size } else { 1 + name_size % 8 };
        if at + (24 + name_size).next_multiple_of(8) > data.len() as u64 {
            break;
        }
        put_u16(data, at + DIR_NAME_SIZE, name_size);
        put(data, at + DIR_TYPE, &[1]);
        put_u32(data, at + DIR_EXTRA_SIZE, 0);
        let flags = u32_at(data, at + DIR_FLAGS) & 3;
        put_u32(data, at + DIR_FLAGS, if random.rarely(8) { flags } else { AUTO.into() });
        let granularity = data[(at + DIR_GRANULARITY) as usize];
        let granularity = if (9..=31).contains(&granularity) { granularity } else { 9 + granularity % 8 };
        put(data, at + DIR_GRANULARITY, &[granularity]);
        // Names differ by their first byte.
        put(data, at + DIR_NAME, &[b'a' + count as u8]);
        for byte in 1..name_size {
            let place = (at + DIR_NAME + byte) as usize;
            data[place] = data[place].max(1);
        }
        if !random.rarely(16) {
            put_u32(data, at + DIR_TABLE_SIZE, lengths[usize::from(granularity)]);
        }
        let table = u64_at(data, at + DIR_TABLE_OFFSET);
        let inside = table.is_multiple_of(1 << bits) && (start..start + (clusters << bits)).contains(&table);
        if !inside && !random.rarely(16) {
            put_u64(data, at + DIR_TABLE_OFFSET, start + (random.below(clusters) << bits));
        }
        tables.push((u64_at(data, at + DIR_TABLE_OFFSET), u32_at(data, at + DIR_TABLE_SIZE)));
        at += (24 + name_size).next_multiple_of(8);
        count += 1;
    }
    put(data, 3, &[count as u8]);
    put_u16(data, 4, at - HEAD);
    for (table, entries) in tables {
        let Some(inside) = table.checked_sub(start) else { continue };
        for word in (0..entries.min(64)).map(|entry| HEAD + inside + entry * 8) {
            // Not over the directory.
            if word < at || word + 8 > data.len() as u64 {
                continue;
            }
            let value = u64_at(data, word);
            let offset = value & !1;
            let valid = offset.is_multiple_of(1 << bits) && offset < start + (clusters << bits);
            if !valid && !random.rarely(16) {
                let place = start + (random.below(clusters) << bits);
                put_u64(data, word, [0, 1, place, place][random.below(4) as usize]);
            }
        }
    }
}

/// Images whose header is one; and, where libFuzzer has left them alone, one change of a table.
pub fn image(data: &mut [u8], seed: u32) {
    let mut random = Random(seed.into());
    // The last byte is no part of the image.
    let Some((choice, file)) = data.split_last_mut() else { return };
    if file.len() < 512 {
        return;
    }
    if !structured(seed) {
        if !random.rarely(10) {
            fix_header(file, &mut random, file.len() as u64);
        }
        return;
    }
    if random.rarely(4) {
        *choice = random.word() as u8;
        return;
    }
    let bits = u32_at(file, CLUSTER_BITS);
    if !(9..=21).contains(&bits) {
        return;
    }
    for _ in 0..1 + random.below(3) {
        change_table(file, bits as u32, &mut random);
    }
}

/// Changes one word of one of the tables that the header leads to.
fn change_table(file: &mut [u8], bits: u32, random: &mut Random) {
    let clusters = (file.len() as u64 >> bits).max(1);
    let cluster = 1u64 << bits;
    let l1 = (u64_at(file, L1_OFFSET), u32_at(file, L1_SIZE).min(4096) * 8);
    let refcount_table = (u64_at(file, REFTABLE_OFFSET), u32_at(file, REFTABLE_CLUSTERS).min(16) << bits);
    let any_in = |file: &[u8], (start, bytes): (u64, u64), random: &mut Random| -> u64 {
        let used: Vec<u64> = (0..bytes / 8)
            .map(|word| u64_at(file, start.saturating_add(word * 8)) & 0x00FF_FFFF_FFFF_FE00)
            .filter(|offset| *offset != 0)
            .take(64)
            .collect();
        used.get(random.below(used.len() as u64) as usize).copied().unwrap_or(start)
    };
    let (table, bytes) = match random.below(8) {
        0 => (0, 256),
        1 => l1,
        2 => refcount_table,
        3 => (any_in(file, refcount_table, random), cluster),
        4 | 5 => (any_in(file, l1, random), cluster),
        6 => (u64_at(file, SNAPSHOTS_OFFSET), 128),
        _ => {
            let directory = bitmap_directory_of(file);
            match random.below(3) {
                0 => (directory, 64),
                1 => (u64_at(file, directory), 64),
                _ => (any_in(file, (u64_at(file, directory), 64), random), 64),
            }
        }
    };
    let Some(room) = (file.len() as u64).checked_sub(table).filter(|room| *room >= 8) else { return };
    let at = table + random.below(bytes.min(room) / 8) * 8;
    let old = u64_at(file, at);
    let place = random.below(clusters + 1) << bits;
    let word = match random.below(10) {
        0 => 0,
        1 => old ^ COPIED,
        2 => old ^ 1,
        3 => old ^ 1 << random.below(64),
        4 => old.wrapping_add(cluster),
        5 => place,
        6 => place | COPIED,
        7 => COMPRESSED | random.below(3) << (62 - (bits - 8)) | place,
        8 => u64_at(file, table + random.below(bytes.min(room) / 8) * 8),
        _ => {
            // Of a refcount block rather one refcount.
            put_u16(file, at + random.below(4) * 2, random.below(4));
            return;
        }
    };
    put_u64(file, at, word);
}

/// Where the bitmap directory is, if there is one.
fn bitmap_directory_of(file: &[u8]) -> u64 {
    let mut at = if u32_at(file, VERSION) == 2 { 72 } else { u32_at(file, HEADER_LENGTH) };
    for _ in 0..16 {
        match u32_at(file, at) as u32 {
            EXT_BITMAPS => return u64_at(file, at + 8 + EXT_DIRECTORY_OFFSET),
            0 => break,
            _ => at += 8 + u32_at(file, at + 4).next_multiple_of(8),
        }
    }
    0
}
