// Cuts forge's artifacts down to what a caller needs. Usage: node bin/abi.mjs [--check], in contracts/.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

const contracts = ["Settlement", "StakeVault", "GridToken", "TimelockController"];
const check = process.argv.includes("--check");
mkdirSync("abi", { recursive: true });

let stale = 0;
for (const name of contracts) {
  const source = [name, `I${name}`].find((candidate) => existsSync(`out/${candidate}.sol/${candidate}.json`));
  const artifact = JSON.parse(readFileSync(`out/${source}.sol/${source}.json`, "utf8"));
  const text = `${JSON.stringify(
    {
      abi: artifact.abi,
      bytecode: artifact.bytecode.object,
      deployedBytecode: artifact.deployedBytecode.object,
    },
    null,
    2,
  )}\n`;
  const file = `abi/${name}.json`;
  if (!check) {
    writeFileSync(file, text);
  } else if (read(file) !== text) {
    console.error(`contracts/${file} is not what the sources compile to: run contracts/abi.sh and commit it`);
    stale = 1;
  }
}
process.exit(stale);

function read(file) {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}
