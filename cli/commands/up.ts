/** `dynamos up`: leaves an exchange running on this machine, and prints how to ask it. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { packageRoot } from "../../lib/package-root.ts";
import { startExchange } from "../exchange/exchange.ts";
import { supervise } from "../exchange/supervise.ts";
import { exchangeSettings, type ExchangeFlags } from "../exchange/settings.ts";
import { SAMPLE_STEWARDS, writeSampleData, type SampleStewardName } from "../generate-sample-data.ts";

/** Options of the command. */
export interface UpOptions {
  /** Configuration folder; absent: the sample's. */
  readonly configuration: string | undefined;
  readonly port: number;
  /** Absent: `.dynamos/up` below the working folder. */
  readonly stateFolder: string | undefined;
  readonly flags: ExchangeFlags;
  readonly write: (line: string) => void;
  /** Resolves when the exchange shall stop. */
  readonly untilStopped: Promise<void>;
}

/** Runs the command. */
export async function up(options: UpOptions): Promise<void> {
  const configuration = options.configuration ?? (await prepareSample(options.write));
  const exchange = await startExchange({
    ...(await exchangeSettings(options.flags, configuration)),
    configuration,
    stateFolder: options.stateFolder ?? join(process.cwd(), ".dynamos", "up"),
    port: options.port,
    onProgress: (message) => options.write(`  ${message}`),
  });
  const stopping = new AbortController();
  try {
    options.write(await instructions(exchange.url, exchange.adminKeyFile, options.configuration === undefined));
    await Promise.race([options.untilStopped, supervise(exchange, options.write, stopping.signal)]);
  } finally {
    stopping.abort();
    options.write("Stopping …");
    await exchange.stop();
  }
}

/** The sample's configuration folder, with its data generated where they are missing. */
export async function prepareSample(write: (line: string) => void): Promise<string> {
  const configuration = join(packageRoot, "configuration");
  for (const steward of Object.keys(SAMPLE_STEWARDS) as SampleStewardName[]) {
    const folder = join(configuration, "data", steward);
    if (existsSync(join(folder, "Aanstellingen.csv"))) continue;
    write(`  making sample data for ${steward}`);
    await writeSampleData(folder, steward);
  }
  return configuration;
}

async function instructions(url: string, adminKeyFile: string, isSample: boolean): Promise<string> {
  const lines = [
    "",
    `The exchange is running. Front door: ${url}`,
    `Admin key for config writes: ${adminKeyFile}`,
    ...(isSample ? ["", "Ask, for example:", "", await readExample(url)] : []),
    "",
    "Stop with Ctrl-C.",
  ];
  return lines.join("\n");
}

async function readExample(url: string): Promise<string> {
  const body = await readFile(join(packageRoot, "configuration", "examples", "average-salary-by-sex.json"), "utf8");
  return [`curl -s ${url}/api/v1/requestApproval -H 'Content-Type: application/json' -d '`, `${body.trim()}'`].join("");
}
