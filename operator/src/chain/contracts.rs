//! The contracts' calls, events and errors, from what the contracts' own sources compile to.

use alloy::sol;

sol!(
    #[allow(missing_docs, clippy::too_many_arguments)]
    "../contracts/src/interfaces/ISettlement.sol"
);
sol!(
    #[allow(missing_docs, clippy::too_many_arguments)]
    "../contracts/src/interfaces/IStakeVault.sol"
);
