/** This steward's data: loaded when first asked for, and again when the files have changed (decision 11). */
import { basename } from "node:path";
import type { Clock } from "../lib/clock.ts";
import { AppError, toAppError } from "../lib/errors.ts";
import type { DataSet } from "../lib/model/dataset.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import { readDataPods } from "./data/data-pods.ts";
import { loadDataSet, type LoadedDataSet } from "./data/load.ts";

/** How data sources are opened. */
export interface DataSourcesOptions {
  /** The data file; absent at a party without data. */
  readonly dataFile: string | undefined;
  /** Where loaded data are kept. */
  readonly folder: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What chains of this steward read. */
export class DataSources {
  readonly #options: DataSourcesOptions;
  readonly #loading = new Map<string, Promise<LoadedDataSet>>();

  constructor(options: DataSourcesOptions) {
    this.#options = options;
  }

  /**
   * The data set as a file to query, as its files are now. Callers at once share one load.
   *
   * @throws AppError `configuration_invalid` where this steward has no such data, `data_invalid` where they cannot be read.
   */
  async open(dataSet: DataSet): Promise<LoadedDataSet> {
    const running = this.#loading.get(dataSet.name);
    if (running !== undefined) return running;
    const load = this.#load(dataSet).finally(() => this.#loading.delete(dataSet.name));
    this.#loading.set(dataSet.name, load);
    return load;
  }

  async #load(dataSet: DataSet): Promise<LoadedDataSet> {
    const { dataFile, folder, clock, logger } = this.#options;
    try {
      const pods = dataFile === undefined ? { dataSets: {} } : await readDataPods(dataFile);
      const pod = pods.dataSets[dataSet.name];
      if (pod === undefined) {
        throw new AppError(
          "configuration_invalid",
          `This party has no data for data set "${dataSet.name}": name its files in the agent's data file.`,
          { details: { known: Object.keys(pods.dataSets) } },
        );
      }
      return await loadDataSet(dataSet, pod, {
        folder,
        clock,
        onProgress: (progress) => logger.debug({ dataSet: dataSet.name, progress }, "loading data"),
      });
    } catch (error) {
      logger.error({ error, dataSet: dataSet.name, place: toAppError(error).place }, "the data cannot be loaded");
      throw withoutFolder(toAppError(error));
    }
  }
}

/** The analyst may know the file's name, and where in it the fault is, so as to tell the steward; not the steward's folders. */
function withoutFolder(error: AppError): AppError {
  const path = error.place?.file;
  if (path === undefined) return error;
  const file = basename(path);
  return new AppError(error.code, error.message.replaceAll(path, file), {
    retryable: error.retryable,
    place: { ...error.place, file },
    details: error.details,
  });
}
