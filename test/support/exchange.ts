/** A whole exchange for one test file: real processes on free ports, ended and checked for left-overs when the file ends. */
import assert from "node:assert/strict";
import { cp, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after } from "node:test";
import { ExchangeClient } from "../../cli/client.ts";
import { startExchange, type Exchange, type ExchangeOptions } from "../../cli/exchange/exchange.ts";
import { writeSampleData } from "../../cli/generate-sample-data.ts";
import { packageRoot } from "../../lib/package-root.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import { openTestBackends, type TestBackends } from "./backends.ts";
import { leftOverQueues } from "./bus-inspection.ts";
import { eventually } from "./eventually.ts";
import { assertNoProcessLeft } from "./leaks.ts";
import { pauseProcess, resumeProcess } from "./pause-process.ts";
import { leftOverKeys } from "./store-inspection.ts";
import { temporaryFolder } from "./temporary-folder.ts";

/** The sample's analyst. */
export const ANALYST = { id: "analyst-1", userName: "analyst@example.org" };

/** Joins both tables of the sample; one row per person, reference date and appointment. */
export const SALARY_QUERY =
  "SELECT p.Geslacht, a.Aanst_22 FROM Personen p JOIN Aanstellingen a ON p.Unieknr = a.Unieknr AND p.Peildat = a.Peildat";

/** A running exchange as tests use it. */
export interface TestExchange extends Exchange {
  readonly client: ExchangeClient;
  readonly adminKey: string;
  /** Its configuration folder. */
  readonly configuration: string;
  readonly backends: TestBackends;
  /** Does this after the tests of the file, before the exchange is stopped: hooks of the file itself come after that. */
  atEnd(work: () => Promise<void>): void;
}

/** As the exchange's; store, bus and sidecar are what the environment chose (`backends.ts`). */
export type TestExchangeOptions = Partial<Omit<ExchangeOptions, "stateFolder" | "port" | "storeUrl" | "busUrl">>;

/** Leases of processes that were killed, and figures of a broker, take some seconds to follow. */
const LEFT_OVERS_MS = 75_000;

/**
 * Starts an exchange; after the tests of this file it is stopped, and neither a process of it may be left, nor anything in store
 * and bus that nobody needs. To be awaited at the top level of the file: a hook's own `after` would end it with the hook.
 *
 * @param options its configuration folder; absent: a small sample (see {@link smallSample}).
 */
export async function testExchange(options: TestExchangeOptions = {}): Promise<TestExchange> {
  const configuration = options.configuration ?? (await smallSample());
  const stateFolder = await temporaryFolder();
  const backends = await openTestBackends(stateFolder);
  const { storeUrl, busUrl } = backends;
  const { sidecar } = backends.choice;
  const ending: (() => Promise<void>)[] = [() => backends.close()];
  after(() => endAll(ending));
  const exchange = await startExchange({ sidecar, ...options, storeUrl, busUrl, configuration, stateFolder, port: 0 });
  ending.push(
    () => assertNothingLeftIn(backends),
    () => assertNoProcessLeft(stateFolder),
    () => exchange.stop(),
  );
  return {
    ...exchange,
    backends,
    configuration,
    atEnd: (work) => void ending.push(work),
    client: new ExchangeClient(exchange.url),
    adminKey: (await readFile(exchange.adminKeyFile, "utf8")).trim(),
  };
}

/** Does all of this, the last first, whatever happens to the others; fails with the first fault. */
async function endAll(ending: readonly (() => Promise<void>)[]): Promise<void> {
  const faults: unknown[] = [];
  for (const end of ending.toReversed()) await end().catch((fault: unknown) => faults.push(fault));
  if (faults.length > 0) throw faults[0];
}

/** Fails if an exchange that was stopped has left keys that nobody needs, queues of runs or of processes, or connections. */
async function assertNothingLeftIn(backends: TestBackends): Promise<void> {
  const { bus, choice } = backends;
  await eventually(
    async () => {
      assert.deepEqual(leftOverKeys(await backends.storedKeys()), []);
      assert.deepEqual(leftOverQueues(await bus.queues()), []);
      if (choice.bus === "rabbitmq") assert.equal(await bus.connections(), 0, "connections");
      return true;
    },
    { timeoutMs: LEFT_OVERS_MS, intervalMs: 200, describe: "nothing to be left in store and bus" },
  );
}

/** The sample's configuration with few people: fast to load, in a folder of its own that a test may change. */
export async function smallSample(pairs = 50): Promise<string> {
  const folder = await temporaryFolder();
  for (const kind of [
    "agreements",
    "archetypes",
    "datasets",
    "forcedServices",
    "microservices",
    "parties",
    "requestTypes",
  ]) {
    await cp(join(packageRoot, "configuration", kind), join(folder, kind), { recursive: true });
  }
  for (const steward of ["VU", "UVA", "RUG"] as const) {
    await writeSampleData(join(folder, "data", steward), steward, { pairs });
  }
  return folder;
}

/** A configuration of a test's own: these data providers, each with these CSV files, and SURF as third party. */
export interface OwnConfiguration {
  readonly dataSet: DataSet;
  /** Provider to table to the file's text. */
  readonly providers: Readonly<Record<string, Readonly<Record<string, string>>>>;
  /** What every provider's agreement grants the sample's analyst beyond the usual. */
  readonly relation?: Partial<Agreement["relations"][string]>;
}

/** Writes it, and resolves with its folder. */
export async function writeConfiguration(own: OwnConfiguration): Promise<string> {
  const folder = await temporaryFolder();
  for (const kind of ["archetypes", "microservices", "requestTypes"]) {
    await cp(join(packageRoot, "configuration", kind), join(folder, kind), { recursive: true });
  }
  await writeJson(join(folder, "datasets", `${own.dataSet.name}.json`), own.dataSet);
  await writeJson(join(folder, "parties", "SURF.json"), { dataSets: {} });
  for (const [name, tables] of Object.entries(own.providers)) {
    const files: Record<string, string> = {};
    for (const [table, text] of Object.entries(tables)) {
      const path = join(folder, "data", name, `${table}.csv`);
      await mkdir(join(folder, "data", name), { recursive: true });
      await writeFile(path, text);
      files[table] = path;
    }
    await writeJson(join(folder, "parties", `${name}.json`), {
      dataSets: { [own.dataSet.name]: { engine: "csv", files } },
    });
    await writeJson(join(folder, "agreements", `${name}.json`), agreement(name, own));
  }
  return folder;
}

/** A document of the config API, changed by a function and put back with the admin key. */
export async function changeDocument<Document>(
  exchange: TestExchange,
  path: string,
  name: string,
  change: (document: Document) => Document,
): Promise<void> {
  const document = (await exchange.client.get(`${path}/${name}`, { token: exchange.adminKey })) as Document;
  await exchange.client.put(path, change(document), { token: exchange.adminKey });
}

/** Pauses one of its services; resolves, when it does nothing any more, with what lets it go on. Fails when it does not run. */
export async function pauseService({ services }: Exchange, name: string): Promise<() => void> {
  const service = services.get(name);
  assert.ok(service !== undefined && !service.hasEnded(), `${name} does not run`);
  await pauseProcess(service.pid);
  return () => resumeProcess(service.pid);
}

/** Fails unless a promise is rejected with this code; resolves with the error. */
export async function rejectsWith(work: Promise<unknown>, code: string): Promise<Record<string, unknown>> {
  let thrown: Record<string, unknown> | undefined;
  await assert.rejects(work, (error: Record<string, unknown>) => {
    thrown = error;
    assert.equal(error["code"], code, `expected ${code}, not ${String(error["code"])}: ${String(error["message"])}`);
    return true;
  });
  return thrown ?? {};
}

function agreement(name: string, { dataSet, relation }: OwnConfiguration): Agreement {
  return {
    name,
    relations: {
      [ANALYST.userName]: {
        ID: ANALYST.id,
        requestTypes: ["sqlDataRequest"],
        dataSets: [dataSet.name],
        allowedArchetypes: ["computeToData", "dataThroughTtp"],
        allowedComputeProviders: ["SURF"],
        rawRows: true,
        ...relation,
      },
    },
    computeProviders: ["SURF"],
    archetypes: ["computeToData", "dataThroughTtp"],
  };
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, JSON.stringify(value, undefined, 2));
}
