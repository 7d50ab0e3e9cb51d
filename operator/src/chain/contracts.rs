//! The contracts' calls, events and errors, from the ABI files that the contracts' sources compile to.

use alloy::sol;

sol!(
    #[allow(missing_docs, clippy::too_many_arguments)]
    Settlement,
    "../contracts/abi/Settlement.json"
);
sol!(
    #[allow(missing_docs, clippy::too_many_arguments)]
    StakeVault,
    "../contracts/abi/StakeVault.json"
);
