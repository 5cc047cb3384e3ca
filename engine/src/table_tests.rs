use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn entry(position: u64, version: u64) -> Entry {
    Entry::new(position, version, Location { file: 1, offset: version as u32, len: 40 }, false)
}

/// Positions that collide, that crowd the ends, and arbitrary ones.
fn position() -> impl Strategy<Value = u64> {
    prop_oneof![4 => any::<u64>(), 1 => 0..9u64, 1 => u64::MAX - 3..=u64::MAX, 1 => Just(u64::MAX)]
}

fn check(table: &Table, model: &[Entry], from: u64) {
    assert_eq!(table.len(), model.len());
    assert!(table.from(0).eq(model));
    assert!(table.from(from).eq(model.iter().filter(|entry| entry.position >= from)));
    for entry in model {
        assert!(table.at(entry.position).eq(model.iter().filter(|other| other.position == entry.position)));
        assert!(table.slots(table.home(entry.position)).any(|slot| slot == entry));
    }
    assert!(table.at(from).eq(model.iter().filter(|entry| entry.position == from)));
}

proptest! {
    #[test]
    fn table_is_a_sorted_list(positions in prop::collection::vec(position(), 0..700), from in position()) {
        let mut table = Table::default();
        let mut model = Vec::new();
        for (version, &position) in positions.iter().enumerate() {
            table.insert(entry(position, version as u64));
            model.push(entry(position, version as u64));
        }
        model.sort_by_key(|entry| entry.position);
        check(&table, &model, from);
        check(&Table::from_sorted(&model), &model, from);
    }

    #[test]
    fn table_is_a_sorted_list_whatever_is_removed(
        positions in prop::collection::vec(position(), 1..700),
        removals in prop::collection::vec(any::<prop::sample::Index>(), 0..900),
        built: bool,
        from in position(),
    ) {
        let mut model: Vec<Entry> =
            positions.iter().zip(0..).map(|(&position, version)| entry(position, version)).collect();
        model.sort_by_key(|entry| entry.position);
        let mut table = Table::default();
        if built { table = Table::from_sorted(&model) } else { model.iter().for_each(|entry| table.insert(*entry)) }
        for (step, index) in removals.iter().enumerate() {
            if model.is_empty() {
                break;
            }
            let removed = model.remove(index.index(model.len()));
            prop_assert!(table.remove(&removed));
            prop_assert!(!table.remove(&removed));
            if step % 64 == 0 {
                // Removed entries leave room for new ones.
                let added = entry(removed.position ^ 1 << 40, step as u64 + 10_000);
                let at = model.partition_point(|entry| entry.position <= added.position);
                model.insert(at, added);
                table.insert(added);
                check(&table, &model, from);
            }
        }
        check(&table, &model, from);
        let new = Entry { version: u64::MAX, ..entry(from, 0) };
        prop_assert!(!table.replace(&new, new) && !table.remove(&new));
    }
}

#[test]
fn emptied_table_gives_its_memory_back() {
    let mut table = Table::default();
    let entries: Vec<Entry> = (0..10_000).map(|number| entry(spread(number), number)).collect();
    entries.iter().for_each(|entry| table.insert(*entry));
    let full = table.allocated_bytes();
    entries[..9_000].iter().for_each(|entry| assert!(table.remove(entry)));
    assert!(table.allocated_bytes() * 4 < full);
    assert!(entries[9_000..].iter().all(|entry| table.at(entry.position).eq([entry])));
    entries[9_000..].iter().for_each(|entry| assert!(table.remove(entry)));
    assert_eq!(table.allocated_bytes(), 0);
}

/// Returns positions that are spread evenly, in no order.
fn spread(number: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes())
}

#[test]
fn entry_takes_at_most_32_bytes_at_any_count_above_a_thousand() {
    let mut table = Table::default();
    for count in 1..40_000_u64 {
        table.insert(entry(spread(count), count));
        if count > 1000 {
            let bytes = table.allocated_bytes();
            assert!(bytes as f64 / count as f64 <= 32.0, "{bytes} bytes for {count}");
        }
    }
}

/// Returns the resident memory of this process in bytes.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// `cargo test -p caskade-engine memory_of_1_to_10_million_keys -- --ignored --nocapture`
#[test]
#[ignore = "takes seconds and prints figures"]
#[expect(clippy::print_stdout, reason = "printing figures is its purpose")]
fn memory_of_1_to_10_million_keys() {
    const STEPS: u64 = 1_000_000;
    let mut tables: Vec<Table> = (0..crate::slots::PARTITIONS).map(|_| Table::default()).collect();
    let before = resident_bytes();
    let (mut sums, mut worst, mut samples) = ([0.0; 2], [0.0_f64; 2], 0);
    let mut growing = Vec::new();
    for count in 1..=10 * STEPS {
        let position = spread(count);
        let table = &mut tables[spread(position) as usize % usize::from(crate::slots::PARTITIONS)];
        let (blocks, began) = (table.blocks.len(), Instant::now());
        table.insert(entry(position, count));
        if table.blocks.len() > blocks && table.len() > 8_000 {
            growing.push(began.elapsed());
        }
        if count >= STEPS && count % (STEPS / 50) == 0 {
            let allocated: usize = tables.iter().map(Table::allocated_bytes).sum();
            let both = [allocated as f64, (resident_bytes() - before) as f64];
            for (index, bytes) in both.into_iter().enumerate() {
                sums[index] += bytes / count as f64;
                worst[index] = worst[index].max(bytes / count as f64);
            }
            samples += 1;
        }
    }
    let average = sums.map(|sum| sum / f64::from(samples));
    for (index, what) in ["allocated", "resident"].into_iter().enumerate() {
        println!("{what}: {:.1} bytes a key on average, {:.1} at worst", average[index], worst[index]);
        assert!(average[index] <= 32.0 && worst[index] <= 40.0);
    }
    growing.sort_unstable();
    let (half, most) = (growing[growing.len() / 2], growing[growing.len() * 99 / 100]);
    println!("growing a table of more than 8,000: {half:?} in the median, {most:?} in 99 of 100");
}

proptest! {
    #[test]
    fn kind_and_length_of_an_entry_read_back(len in 0..=length::LEN_MAX, short in 0..=TOMBSTONE_LEN_MAX, expires: bool) {
        let new = |len, tombstone| Entry::new(1, 2, Location { file: 3, offset: 4, len }, tombstone).with_expiry(expires);
        let (value, tombstone) = (new(len, false), new(short, true));
        prop_assert_eq!((value.is_tombstone(), value.expires()), (false, expires));
        prop_assert_eq!((tombstone.is_tombstone(), tombstone.expires()), (true, false));
        prop_assert_eq!(value.location().len, length::at_most(length::code_of(len)));
        prop_assert_eq!(tombstone.location().len, length::at_most(length::code_of(short)));
        prop_assert!(value.is_copy_of(&Entry::new(1, 2, value.location(), false)) && !value.is_copy_of(&tombstone));
    }
}
