//! Carries out what was decided about a record. Writes only; doing it twice is the same as doing it once.

use gridstake_crds::{
    TokenAmount, UsageRecord,
    usage_record::{Emission, Sealed},
};
use gridstake_ledger::amount::AmountError;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};

use super::{
    bill::Bill,
    numbers::{Numbers, NumbersError},
    receipt,
    status::{StatusWrite, Written},
};
use crate::{caches::parsed, context::Context, error::ReconcileError};

/// Why a decision was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The next slice could not be opened.
    #[error("create UsageRecord {name}")]
    Open {
        /// The next slice's record.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// It is not known whether another record has the number of a seal that is to be written again.
    #[error("list the UsageRecords with job number {number}")]
    Find {
        /// The number.
        number: u64,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// What the host did could not be written down.
    #[error("create the Incident of UsageRecord {name}")]
    Incident {
        /// The record.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// There is no number for the bill.
    #[error("number the bill")]
    Number(#[source] NumbersError),
    /// The price does not fit what the lane can pay.
    #[error("make the receipt of UsageRecord {0}")]
    Receipt(String, #[source] AmountError),
    /// The record is to be paid on a chain that is not configured any more.
    #[error(
        "seal UsageRecord {name}: it is to be paid on lane {lane} of the chain {chain:?}; configure that chain again"
    )]
    OtherLane {
        /// The record.
        name: String,
        /// Its chain.
        chain: String,
        /// Its lane.
        lane: u32,
    },
}

impl ReconcileError for ActError {
    fn category(&self) -> &'static str {
        match self {
            Self::Open { .. } => "create_usage_record",
            Self::Find { .. } => "find_number",
            Self::Incident { .. } => "create_incident",
            Self::Number(error) => error.category(),
            Self::Receipt(..) => "make_receipt",
            Self::OtherLane { .. } => "other_lane",
        }
    }
}

/// Creates the record of the next slice, unless it is there. Tells whether a request was sent.
pub async fn open_next(ctx: &Context, next: Option<&UsageRecord>) -> Result<bool, ActError> {
    let Some(next) = next else { return Ok(false) };
    let records: Api<UsageRecord> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    match records.create(&PostParams::default(), next).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(true),
        Err(source) => Err(ActError::Open {
            name: next.name_any(),
            source: Box::new(source),
        }),
    }
}

/// Whether another record of the lane has the number of `sealed`, a seal of `record` that was lost: then the doubt about it
/// has ended, and is told to have soon. It is asked of the API server itself, not of the cache: one number on two records
/// leaves one unpaid. Records of other lanes may have it.
pub async fn is_taken(
    ctx: &Context,
    record: &UsageRecord,
    sealed: &Sealed,
) -> Result<bool, ActError> {
    let Some(number) = sealed.job_no else {
        return Ok(false);
    };
    let records: Api<UsageRecord> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let with_number = ListParams::default().fields(&format!("status.sealed.jobNo={number}"));
    let lane = |record: &UsageRecord| record.spec.payment.as_ref().map(|payment| payment.lane);
    records
        .list(&with_number)
        .await
        .map(|found| found.items.iter().any(|other| lane(other) == lane(record)))
        .map_err(|source| ActError::Find {
            number,
            source: Box::new(source),
        })
}

/// A bill with its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbered {
    /// As it is written.
    pub sealed: Sealed,
    /// The numbers that were taken for it.
    pub taken: Vec<u64>,
}

/// Numbers `bill`, if anything is owed for it, from the `numbers` of the record's lane.
pub async fn number(
    ctx: &Context,
    numbers: Option<&Numbers>,
    record: &UsageRecord,
    bill: &Bill,
) -> Result<Numbered, ActError> {
    let Some(payment) = record.spec.payment.as_ref().filter(|_| bill.owes(record)) else {
        return Ok(Numbered {
            sealed: sealed(record, bill, None, None)?,
            taken: Vec::new(),
        });
    };
    let numbers = numbers.ok_or_else(|| ActError::OtherLane {
        name: record.name_any(),
        chain: payment.chain.clone(),
        lane: payment.lane,
    })?;
    // What cannot be paid shall not take a number.
    sealed(record, bill, Some(0), None)?;
    let floor = numbers_in_use(ctx, payment.lane);
    let job_no = numbers.take(floor).await.map_err(ActError::Number)?;
    let mut taken = vec![job_no];
    let mut emission = None;
    if let Some(amount) = bill.emission_nano {
        let number = match numbers.take(floor).await {
            Ok(number) => number,
            Err(error) => {
                numbers.give_back(job_no).await;
                return Err(ActError::Number(error));
            }
        };
        taken.push(number);
        emission = Some(Emission {
            job_no: number,
            amount: TokenAmount::from_nano(amount.into()),
        });
    }
    Ok(Numbered {
        sealed: sealed(record, bill, Some(job_no), emission)?,
        taken,
    })
}

/// The lowest number above all that are known to be in use on `lane`.
fn numbers_in_use(ctx: &Context, lane: u32) -> u64 {
    let records = ctx.caches.usage_records.state();
    let of_lane = |record: &&UsageRecord| {
        let payment = record.spec.payment.as_ref();
        payment.is_some_and(|payment| payment.lane == lane)
    };
    parsed(&records)
        .filter(of_lane)
        .filter_map(|record| record.status.as_ref()?.sealed.as_ref())
        .flat_map(|sealed| {
            [
                sealed.job_no,
                sealed.emission.as_ref().map(|emission| emission.job_no),
            ]
        })
        .flatten()
        .max()
        .map_or(0, |highest| highest.saturating_add(1))
}

/// The seal as it is written.
pub fn sealed(
    record: &UsageRecord,
    bill: &Bill,
    job_no: Option<u64>,
    emission: Option<Emission>,
) -> Result<Sealed, ActError> {
    let mut sealed = Sealed {
        job_no,
        start_ms: bill.span.from_ms,
        end_ms: bill.span.to_ms,
        gpu_millis: bill.gpu_millis,
        price: job_no
            .and(record.spec.payment.as_ref())
            .map(|payment| payment.per_gpu_second),
        cause: bill.cause,
        verdict: bill.verdict.map(|(verdict, _)| verdict),
        verdict_reason: bill.verdict.map(|(_, reason)| reason),
        energy_millijoules: bill.energy_millijoules,
        factors: bill.factors.clone(),
        emission,
        evidence_head: bill.evidence_head.clone(),
        certificate: bill.certificate.clone(),
        receipt_hash: String::new(),
    };
    sealed.receipt_hash = receipt::hash(record, &sealed)
        .map_err(|source| ActError::Receipt(record.name_any(), source))?;
    Ok(sealed)
}

/// Gives the numbers back if the seal was certainly not written. In doubt they are abandoned: the same number on two
/// records would leave one of them unpaid.
pub async fn keep_or_give_back(
    numbers: Option<&Numbers>,
    numbered: &Numbered,
    written: &StatusWrite,
) {
    let Some(numbers) = numbers else { return };
    let refused = match written {
        Ok(Written::Outdated) => true,
        Ok(Written::Yes { .. }) => false,
        Err(error) => error.is_refusal(),
    };
    if refused {
        for number in &numbered.taken {
            numbers.give_back(*number).await;
        }
    }
}
