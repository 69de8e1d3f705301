/** The configuration of the exchange under test: four stewards with generated data, a third party, and who may ask what. */
import { cp, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { packageRoot } from "../../lib/package-root.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import { dataFiles, DATA_SET, STEWARDS, THIRD_PARTY, type Steward } from "./questions.ts";

/** May ask everything. */
export const ANALYST = { id: "analyst-1", userName: "analyst@example.org" };
/** May only have algorithms computed. */
export const COUNTING_ANALYST = { id: "analyst-2", userName: "counting@example.org" };
/** Is in no agreement. */
export const STRANGER = { id: "analyst-3", userName: "stranger@example.org" };

type DataFiles = ReadonlyMap<Steward, Readonly<Record<"Members" | "Visits", string>>>;

/** Writes the configuration into a folder; resolves with the text of the data files, for the oracle. */
export async function writeExchange(folder: string, seed: number): Promise<DataFiles> {
  for (const kind of ["archetypes", "microservices", "requestTypes"]) {
    await cp(join(packageRoot, "configuration", kind), join(folder, kind), { recursive: true });
  }
  await writeJson(join(folder, "datasets", `${DATA_SET.name}.json`), DATA_SET);
  await writeJson(join(folder, "parties", `${THIRD_PARTY}.json`), { dataSets: {} });
  const written = new Map<Steward, Readonly<Record<"Members" | "Visits", string>>>();
  for (const steward of STEWARDS) {
    const texts = dataFiles(seed, steward);
    const files = {
      Members: join(folder, "data", steward, "Members.csv"),
      Visits: join(folder, "data", steward, "Visits.csv"),
    };
    await mkdir(join(folder, "data", steward), { recursive: true });
    await writeFile(files.Members, texts.Members);
    await writeFile(files.Visits, texts.Visits);
    const dataSets = { [DATA_SET.name]: { engine: "csv", files } };
    await writeJson(join(folder, "parties", `${steward}.json`), { dataSets });
    await writeJson(join(folder, "agreements", `${steward}.json`), agreementOf(steward));
    written.set(steward, texts);
  }
  return written;
}

function agreementOf(name: Steward): Agreement {
  const relation = (ID: string, rawRows: boolean): Agreement["relations"][string] => ({
    ID,
    requestTypes: ["sqlDataRequest"],
    dataSets: [DATA_SET.name],
    allowedArchetypes: ["computeToData", "dataThroughTtp"],
    allowedComputeProviders: [THIRD_PARTY],
    rawRows,
  });
  return {
    name,
    relations: {
      [ANALYST.userName]: relation(ANALYST.id, true),
      [COUNTING_ANALYST.userName]: relation(COUNTING_ANALYST.id, false),
    },
    computeProviders: [THIRD_PARTY],
    archetypes: ["computeToData", "dataThroughTtp"],
  };
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, JSON.stringify(value, undefined, 2));
}
