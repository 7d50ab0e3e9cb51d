//! What a GPU-hour costs elsewhere: reference-prices.yaml. Pure.

use gridstake_crds::TokenAmount;
use serde::{Deserialize, Serialize};

/// The table that the program carries.
const TABLE: &str = include_str!("reference-prices.yaml");

/// A table of prices.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct References {
    /// Its version.
    pub version: String,
    /// The currency of all prices.
    pub currency: String,
    prices: Vec<Entry>,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
struct Entry {
    products: Vec<String>,
    offers: Vec<ListPrice>,
}

/// A price on somebody's list.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ListPrice {
    /// Who sells.
    pub seller: String,
    /// What.
    pub offer: String,
    /// For one GPU and one hour.
    pub price: TokenAmount,
    /// The page.
    pub source: String,
    /// The day on which it was read.
    pub read: String,
}

impl References {
    /// The table that the program carries.
    pub fn own() -> Result<Self, serde_saphyr::Error> {
        serde_saphyr::from_str(TABLE)
    }

    /// The prices of a GPU with this product name, the lowest first; empty where there is no reference.
    #[must_use]
    pub fn of(&self, product: &str) -> Vec<ListPrice> {
        let named = |entry: &&Entry| entry.products.iter().any(|name| name == product);
        let mut offers = self
            .prices
            .iter()
            .find(named)
            .map(|entry| entry.offers.clone())
            .unwrap_or_default();
        offers.sort_by_key(|offer| offer.price);
        offers
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::jiff::civil::Date;

    use super::*;

    #[test]
    fn every_price_has_a_seller_a_page_and_the_day_on_which_it_was_read() {
        let table = References::own().unwrap();
        assert_eq!(
            (table.version.as_str(), table.currency.as_str()),
            ("prices/1", "USD")
        );
        let mut products = BTreeSet::new();
        for entry in &table.prices {
            assert!(!entry.offers.is_empty(), "{:?}", entry.products);
            for product in &entry.products {
                assert!(products.insert(product.clone()), "{product} stands twice");
            }
            for offer in &entry.offers {
                assert!(offer.price.nano() > 0, "{offer:?}");
                assert!(offer.source.starts_with("https://"), "{offer:?}");
                assert!(!offer.seller.is_empty() && !offer.offer.is_empty());
                assert!(offer.read.parse::<Date>().is_ok(), "{offer:?}");
            }
        }
        assert!(products.len() >= 10);
    }

    #[test]
    fn a_product_has_the_prices_of_its_very_name_and_no_other() {
        let table = References::own().unwrap();
        let h100 = table.of("NVIDIA H100 80GB HBM3");
        assert_eq!(h100.len(), 3);
        assert_eq!(
            (h100[0].seller.as_str(), h100[0].price.to_string()),
            ("Akash", "2.71".to_owned())
        );
        for other in ["NVIDIA L40S", "NVIDIA H100", "H100", ""] {
            assert!(table.of(other).is_empty(), "{other}");
        }
    }
}
