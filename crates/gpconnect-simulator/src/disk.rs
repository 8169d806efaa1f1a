//! Persistent storage: one embedded database for all practices of a provider.

use std::path::{Path, PathBuf};

use jiff::civil::Date;
use redb::{Database, ReadableDatabase as _, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::held::{Change, StoredState};
use spine_types::OdsCode;

/// Table of one kind of record, keyed by practice and number.
type DiskTable = TableDefinition<'static, (&'static str, u32), &'static [u8]>;

const SLOTS: DiskTable = TableDefinition::new("slots");
const BOOKINGS: DiskTable = TableDefinition::new("appointments");
const PATIENTS: DiskTable = TableDefinition::new("patients");
const DAYS: DiskTable = TableDefinition::new("days");
const SEEDS: DiskTable = TableDefinition::new("seeds");
/// Every table of the database.
const ALL: [DiskTable; 5] = [SLOTS, BOOKINGS, PATIENTS, DAYS, SEEDS];

/// Error returned when the simulator's database cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DiskStoreError(String);

impl DiskStoreError {
    pub(super) const fn new(why: String) -> Self {
        Self(why)
    }

    fn at(path: &Path, why: &dyn std::fmt::Display) -> Self {
        Self(format!("{}: {why}", path.display()))
    }
}

/// Database of all practices; a write is durable when it returns.
pub(super) struct DiskStore {
    path: PathBuf,
    database: Database,
}

impl DiskStore {
    /// Opens the database, or creates it.
    pub(super) fn open(path: &Path) -> Result<Self, DiskStoreError> {
        let database = Database::create(path).map_err(|why| DiskStoreError::at(path, &why))?;
        let disk = Self { path: path.to_owned(), database };
        disk.transaction(|transaction| {
            for table in ALL {
                transaction.open_table(table)?;
            }
            Ok(())
        })?;
        Ok(disk)
    }

    /// Loads all data of a practice.
    pub(super) fn load(&self, ods: &OdsCode) -> Result<StoredState, DiskStoreError> {
        let read = || -> Result<StoredState, DiskFault> {
            let mut held = StoredState::default();
            self.each(SLOTS, ods, |id, slot| held.apply(Change::Slot(id, slot)))?;
            self.each(BOOKINGS, ods, |id, booking| held.apply(Change::Booking(id, booking)))?;
            self.each(PATIENTS, ods, |id, patient| held.apply(Change::Patient(id, patient)))?;
            self.each(DAYS, ods, |_, day| held.apply(Change::Day(day)))?;
            self.each(SEEDS, ods, |_, text| held.apply(Change::Seed(text)))?;
            Ok(held)
        };
        read().map_err(|why| self.fault(why))
    }

    /// Writes changes in one transaction: all of them, or none.
    pub(super) fn write(&self, ods: &OdsCode, changes: &[Change]) -> Result<(), DiskStoreError> {
        self.transaction(|transaction| {
            for change in changes {
                match change {
                    Change::Slot(id, slot) => put(transaction, SLOTS, (ods, *id), slot)?,
                    Change::Booking(id, kept) => put(transaction, BOOKINGS, (ods, *id), kept)?,
                    Change::Patient(id, kept) => put(transaction, PATIENTS, (ods, *id), kept)?,
                    Change::Day(day) => put(transaction, DAYS, (ods, number(*day)), day)?,
                    Change::Seed(text) => put(transaction, SEEDS, (ods, 0), text)?,
                    Change::NoSlot(id) => remove(transaction, SLOTS, (ods, *id))?,
                    Change::NoDay(day) => remove(transaction, DAYS, (ods, number(*day)))?,
                }
            }
            Ok(())
        })
    }

    /// Deletes all data of a practice.
    pub(super) fn clear(&self, ods: &OdsCode) -> Result<(), DiskStoreError> {
        self.transaction(|transaction| {
            for table in ALL {
                let mut table = transaction.open_table(table)?;
                table.retain_in((ods.as_str(), 0)..=(ods.as_str(), u32::MAX), |_, _| false)?;
            }
            Ok(())
        })
    }

    fn each<T: DeserializeOwned>(
        &self,
        table: DiskTable,
        ods: &OdsCode,
        mut found: impl FnMut(u32, T),
    ) -> Result<(), DiskFault> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(table)?;
        for row in table.range((ods.as_str(), 0)..=(ods.as_str(), u32::MAX))? {
            let (key, value) = row?;
            found(key.value().1, serde_json::from_slice(value.value())?);
        }
        Ok(())
    }

    fn transaction(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), DiskFault>,
    ) -> Result<(), DiskStoreError> {
        let whole = || -> Result<(), DiskFault> {
            let transaction = self.database.begin_write()?;
            change(&transaction)?;
            Ok(transaction.commit()?)
        };
        whole().map_err(|why| self.fault(why))
    }

    #[expect(clippy::needless_pass_by_value, reason = "it consumes the error on purpose")]
    fn fault(&self, why: DiskFault) -> DiskStoreError {
        DiskStoreError::at(&self.path, &why)
    }
}

/// Returns a day as the number `yyyyMMdd`, which sorts by date.
fn number(day: Date) -> u32 {
    let parts =
        [i32::from(day.year()) * 10_000, i32::from(day.month()) * 100, i32::from(day.day())];
    u32::try_from(parts.iter().sum::<i32>()).unwrap_or_default()
}

fn put<T: Serialize>(
    transaction: &WriteTransaction,
    table: DiskTable,
    (ods, id): (&OdsCode, u32),
    record: &T,
) -> Result<(), DiskFault> {
    let text = serde_json::to_vec(record)?;
    transaction.open_table(table)?.insert((ods.as_str(), id), text.as_slice())?;
    Ok(())
}

fn remove(
    transaction: &WriteTransaction,
    table: DiskTable,
    (ods, id): (&OdsCode, u32),
) -> Result<(), DiskFault> {
    transaction.open_table(table)?.remove((ods.as_str(), id))?;
    Ok(())
}

/// Error of the database, or of encoding a record.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct DiskFault(Box<dyn std::error::Error + Send + Sync>);

macro_rules! faults {
    ($($kind:ty),*) => {
        $(impl From<$kind> for DiskFault {
            fn from(why: $kind) -> Self {
                Self(Box::new(why))
            }
        })*
    };
}

faults!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    serde_json::Error
);
