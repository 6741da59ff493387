//! The ledger for finance: one line a request, in columns of the FOCUS cost specification (FinOps Open Cost and
//! Usage Specification 1.2) where they fit; what is ours alone begins with `x_`, as FOCUS asks.

use std::io::Write;
use std::sync::Arc;

use admission::StoreError;
use domain::{OrganizationId, Timestamp};
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Database, integer};

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// Apache Parquet, compressed with Snappy.
    Parquet,
}

/// Which rows are written.
#[derive(Clone, Copy, Debug)]
pub struct ExportRange {
    /// Admitted from then on.
    pub from: Timestamp,
    /// Admitted before then.
    pub to: Timestamp,
    /// Of this organization alone.
    pub organization: Option<OrganizationId>,
}

/// An export broke off.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database did not answer.
    #[error("read ledger")]
    Store(#[from] StoreError),
    /// The output cannot be written.
    #[error("write export")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A column: its name, and how it comes out of a row.
struct Column {
    name: &'static str,
    value: Value,
}

/// How a column comes out of a row.
enum Value {
    Fixed(&'static str),
    Text(&'static str),
    Number(&'static str),
    /// Milliseconds since 1970, written as ISO 8601 in UTC.
    Moment(&'static str),
    /// Nano-dollars, written as dollars.
    Dollars(&'static str),
    /// The sum of two numbers.
    Sum(&'static str, &'static str),
}

/// What a column holds in one row.
enum Field {
    Text(String),
    Number(i64),
    Decimal(i64),
}

impl Database {
    /// Writes rows in the order of their admission; returns how many.
    pub async fn export(
        &self,
        range: ExportRange,
        format: ExportFormat,
        out: &mut (dyn Write + Send),
    ) -> Result<u64, ExportError> {
        let mut sink = Sink::new(format, out)?;
        let (mut after, mut written) = (String::new(), 0);
        let mut from = range.from;
        loop {
            let rows = self.page(ExportRange { from, ..range }, &after).await?;
            let Some(last) = rows.last() else { break };
            let read = || Ok((last.try_get::<i64, _>("admitted_at")?, last.try_get("hold_id")?));
            let (at, hold): (i64, String) = read().map_err(reading)?;
            (from, after) = (Timestamp::from_millis(at.unsigned_abs()), hold);
            sink.write(&rows)?;
            written += rows.len() as u64;
        }
        sink.close()?;
        Ok(written)
    }

    /// The next rows after (`range.from`, `after`).
    async fn page(&self, range: ExportRange, after: &str) -> Result<Vec<AnyRow>, StoreError> {
        let organization = range.organization.map(|id| id.to_string()).unwrap_or_default();
        sqlx::query(SELECT_PAGE)
            .bind(integer(range.from.millis()))
            .bind(after.to_owned())
            .bind(integer(range.to.millis()))
            .bind(organization)
            .bind(PAGE_ROWS)
            .fetch_all(&self.pool)
            .await
            .map_err(reading)
    }
}

/// Where rows go.
enum Sink<'a> {
    Csv(Box<csv::Writer<&'a mut (dyn Write + Send)>>),
    Parquet(Box<SerializedFileWriter<&'a mut (dyn Write + Send)>>),
}

impl<'a> Sink<'a> {
    fn new(format: ExportFormat, out: &'a mut (dyn Write + Send)) -> Result<Self, ExportError> {
        match format {
            ExportFormat::Csv => {
                let mut writer = csv::Writer::from_writer(out);
                writer.write_record(COLUMNS.iter().map(|column| column.name)).map_err(writing)?;
                Ok(Self::Csv(Box::new(writer)))
            }
            ExportFormat::Parquet => {
                let properties =
                    WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let writer = SerializedFileWriter::new(out, schema()?, Arc::new(properties));
                Ok(Self::Parquet(Box::new(writer.map_err(writing)?)))
            }
        }
    }

    fn write(&mut self, rows: &[AnyRow]) -> Result<(), ExportError> {
        match self {
            Self::Csv(writer) => {
                for row in rows {
                    let fields: Result<Vec<String>, ExportError> =
                        COLUMNS.iter().map(|column| Ok(column.value.of(row)?.text())).collect();
                    writer.write_record(fields?).map_err(writing)?;
                }
                Ok(())
            }
            Self::Parquet(writer) => {
                let mut group = writer.next_row_group().map_err(writing)?;
                for column in COLUMNS {
                    write_column(&mut group, column, rows)?;
                }
                group.close().map(drop).map_err(writing)
            }
        }
    }

    fn close(self) -> Result<(), ExportError> {
        match self {
            Self::Csv(mut writer) => writer.flush().map_err(writing),
            Self::Parquet(writer) => writer.close().map(drop).map_err(writing),
        }
    }
}

fn write_column(
    group: &mut SerializedRowGroupWriter<'_, &mut (dyn Write + Send)>,
    column: &Column,
    rows: &[AnyRow],
) -> Result<(), ExportError> {
    let fields: Result<Vec<Field>, StoreError> =
        rows.iter().map(|row| column.value.of(row)).collect();
    let fields = fields?;
    let Some(mut writer) = group.next_column().map_err(writing)? else { return Ok(()) };
    match column.value {
        Value::Fixed(_) | Value::Text(_) | Value::Moment(_) => {
            let texts: Vec<ByteArray> =
                fields.iter().map(|field| ByteArray::from(field.text().into_bytes())).collect();
            writer.typed::<ByteArrayType>().write_batch(&texts, None, None).map_err(writing)?;
        }
        Value::Number(_) | Value::Sum(..) => {
            let numbers: Vec<i64> = fields.iter().map(Field::number).collect();
            writer.typed::<Int64Type>().write_batch(&numbers, None, None).map_err(writing)?;
        }
        Value::Dollars(_) => {
            let dollars: Vec<f64> =
                fields.iter().map(|field| field.number() as f64 / NANOS_PER_DOLLAR).collect();
            writer.typed::<DoubleType>().write_batch(&dollars, None, None).map_err(writing)?;
        }
    }
    writer.close().map_err(writing)
}

fn schema() -> Result<TypePtr, ExportError> {
    let field = |column: &Column| {
        let (physical, logical) = match column.value {
            Value::Fixed(_) | Value::Text(_) | Value::Moment(_) => {
                (Physical::BYTE_ARRAY, Some(LogicalType::String))
            }
            Value::Number(_) | Value::Sum(..) => (Physical::INT64, None),
            Value::Dollars(_) => (Physical::DOUBLE, None),
        };
        let built = Type::primitive_type_builder(column.name, physical)
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type(logical)
            .build();
        built.map(Arc::new).map_err(writing)
    };
    let fields: Result<Vec<TypePtr>, ExportError> = COLUMNS.iter().map(field).collect();
    let built = Type::group_type_builder("ledger").with_fields(fields?).build();
    built.map(Arc::new).map_err(writing)
}

impl Value {
    fn of(&self, row: &AnyRow) -> Result<Field, StoreError> {
        let number = |column: &str| row.try_get::<i64, _>(column);
        let read = || {
            Ok(match self {
                Self::Fixed(text) => Field::Text((*text).to_owned()),
                Self::Text(column) => Field::Text(row.try_get(*column)?),
                Self::Number(column) => Field::Number(number(column)?),
                Self::Moment(column) => Field::Text(moment(number(column)?)),
                Self::Dollars(column) => Field::Decimal(number(column)?),
                Self::Sum(one, other) => Field::Number(number(one)?.saturating_add(number(other)?)),
            })
        };
        read().map_err(reading)
    }
}

impl Field {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Decimal(nanos) => domain::NanoUsd::from_nanos(*nanos).to_string(),
        }
    }

    const fn number(&self) -> i64 {
        match self {
            Self::Text(_) => 0,
            Self::Number(number) | Self::Decimal(number) => *number,
        }
    }
}

/// ISO 8601 in UTC, to the millisecond.
fn moment(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| millis.to_string(), |at| at.to_string())
}

fn reading(error: sqlx::Error) -> StoreError {
    StoreError::new("read ledger rows", error)
}

fn writing(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ExportError {
    ExportError::Write(error.into())
}

const COLUMNS: &[Column] = &[
    Column { name: "BillingAccountId", value: Value::Text("organization_id") },
    Column { name: "SubAccountId", value: Value::Text("project_id") },
    Column { name: "ChargePeriodStart", value: Value::Moment("admitted_at") },
    Column { name: "ChargePeriodEnd", value: Value::Moment("closed_at") },
    Column { name: "ChargeCategory", value: Value::Fixed("Usage") },
    Column { name: "ChargeFrequency", value: Value::Fixed("Usage-Based") },
    Column { name: "ServiceCategory", value: Value::Fixed("AI and Machine Learning") },
    Column { name: "ServiceName", value: Value::Fixed("Tollgate") },
    Column { name: "ProviderName", value: Value::Fixed("Tollgate") },
    Column { name: "ResourceId", value: Value::Text("key_id") },
    Column { name: "ResourceType", value: Value::Fixed("API key") },
    Column { name: "SkuId", value: Value::Text("model") },
    Column { name: "SkuPriceId", value: Value::Text("digest") },
    Column { name: "ConsumedQuantity", value: Value::Sum("prompt_tokens", "completion_tokens") },
    Column { name: "ConsumedUnit", value: Value::Fixed("Tokens") },
    Column { name: "BilledCost", value: Value::Dollars("charge_nanos") },
    Column { name: "EffectiveCost", value: Value::Dollars("charge_nanos") },
    Column { name: "BillingCurrency", value: Value::Fixed("USD") },
    Column { name: "x_HoldId", value: Value::Text("hold_id") },
    Column { name: "x_RequestId", value: Value::Text("request_id") },
    Column { name: "x_GatewayId", value: Value::Text("gateway_id") },
    Column { name: "x_EndUserId", value: Value::Text("user_id") },
    Column { name: "x_Outcome", value: Value::Text("outcome") },
    Column { name: "x_PromptTokens", value: Value::Number("prompt_tokens") },
    Column { name: "x_CachedTokens", value: Value::Number("cached_tokens") },
    Column { name: "x_CompletionTokens", value: Value::Number("completion_tokens") },
    Column { name: "x_ChargeNanoUsd", value: Value::Number("charge_nanos") },
    Column { name: "x_InfrastructureCost", value: Value::Dollars("cost_nanos") },
    Column { name: "x_InfrastructureCostNanoUsd", value: Value::Number("cost_nanos") },
    Column { name: "x_OverrunNanoUsd", value: Value::Number("overrun_nanos") },
    Column { name: "x_GpuNanos", value: Value::Number("gpu_nanos") },
    Column { name: "x_QueueNanos", value: Value::Number("queue_nanos") },
    Column { name: "x_PrefillNanos", value: Value::Number("prefill_nanos") },
    Column { name: "x_DecodeNanos", value: Value::Number("decode_nanos") },
    Column { name: "x_RecomputeNanos", value: Value::Number("recompute_nanos") },
    Column { name: "x_SavedNanos", value: Value::Number("saved_nanos") },
];
const SELECT_PAGE: &str = "SELECT * FROM ledger WHERE \
     (admitted_at > $1 OR (admitted_at = $1 AND hold_id > $2)) AND admitted_at < $3 AND \
     ($4 = '' OR organization_id = $4) ORDER BY admitted_at, hold_id LIMIT $5";
const PAGE_ROWS: i64 = 4_096;
const NANOS_PER_DOLLAR: f64 = 1e9;
