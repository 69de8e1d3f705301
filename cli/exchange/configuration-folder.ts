/**
 * A configuration folder: everything that makes one exchange. `docs/configuration.md` describes it.
 *
 * - `archetypes/`, `agreements/`, `requestTypes/`, `microservices/`, `datasets/`, `forcedServices/`: one JSON file per document,
 *   seeded into an empty knowledge store;
 * - `parties/<NAME>.json`: one file per data steward or third party, which says where its data are. Who has a file gets an agent.
 */
import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { readDataPods } from "../../agent/data/data-pods.ts";
import { AppError } from "../../lib/errors.ts";
import { isStewardName } from "../../lib/model/names.ts";

/** One party of the exchange. */
export interface PartyConfiguration {
  readonly name: string;
  /** Absolute path of its data file. */
  readonly dataFile: string;
}

/** A configuration folder that was read. */
export interface ConfigurationFolder {
  /** Absolute. */
  readonly path: string;
  /** Sorted by name. */
  readonly parties: readonly PartyConfiguration[];
}

/**
 * Reads the parties of a configuration folder; their data files are checked. The documents are checked by the seeding.
 *
 * @throws AppError `configuration_invalid` or `not_found`, with file and place.
 */
export async function readConfigurationFolder(folder: string): Promise<ConfigurationFolder> {
  const path = resolve(folder);
  const partiesFolder = join(path, "parties");
  const files = await readdir(partiesFolder).catch((error: NodeJS.ErrnoException) => {
    throw new AppError(
      "configuration_invalid",
      `${partiesFolder} cannot be read (${String(error.code)}). A configuration folder has parties/<NAME>.json for each party.`,
      { place: { file: partiesFolder }, cause: error },
    );
  });
  const parties: PartyConfiguration[] = [];
  for (const file of files.filter((name) => name.endsWith(".json")).sort()) {
    const name = file.slice(0, -".json".length);
    const dataFile = join(partiesFolder, file);
    if (!isStewardName(name)) {
      throw new AppError(
        "configuration_invalid",
        `${dataFile}: "${name}" is no party's name: letters and digits, beginning with a letter.`,
        { place: { file: dataFile } },
      );
    }
    await readDataPods(dataFile);
    parties.push({ name, dataFile });
  }
  if (parties.length === 0) {
    throw new AppError("configuration_invalid", `${partiesFolder} has no <NAME>.json: an exchange needs a party.`, {
      place: { file: partiesFolder },
    });
  }
  return { path, parties };
}
