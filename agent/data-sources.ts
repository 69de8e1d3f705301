/** This steward's data: loaded when first asked for, and again when the files have changed (decision 11). */
import type { Clock } from "../lib/clock.ts";
import { AppError, toAppError } from "../lib/errors.ts";
import type { DataSet } from "../lib/model/dataset.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import { readDataPods, type DataPod } from "./data/data-pods.ts";
import { loadDataSet, type LoadedDataSet } from "./data/load.ts";
import { outwardFault } from "./data/outward-fault.ts";

/** How data sources are opened. */
export interface DataSourcesOptions {
  /** The data file; absent at a party without data. */
  readonly dataFile: string | undefined;
  /** Where loaded data are kept. */
  readonly folder: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A load that several may wait for; who leaves last ends it. */
interface SharedLoad {
  readonly loaded: Promise<LoadedDataSet>;
  readonly abort: AbortController;
  waiting: number;
}

/** What chains of this steward read. */
export class DataSources {
  readonly #options: DataSourcesOptions;
  readonly #loading = new Map<string, SharedLoad>();

  constructor(options: DataSourcesOptions) {
    this.#options = options;
  }

  /**
   * The data set as a file to query, as its files are now. Callers at once share one load, which ends when none waits any more.
   *
   * @throws AppError `configuration_invalid` where this steward has no such data, `data_invalid` where they cannot be read
   * (without the paths, which only the log has), or what the signal was aborted with.
   */
  async open(dataSet: DataSet, signal: AbortSignal): Promise<LoadedDataSet> {
    if (signal.aborted) throw toAppError(signal.reason);
    // A declaration that changed is another load.
    const key = JSON.stringify(dataSet);
    const load = this.#loading.get(key) ?? this.#start(key, dataSet);
    load.waiting += 1;
    try {
      return await beforeAbort(load.loaded, signal);
    } finally {
      load.waiting -= 1;
      if (load.waiting === 0) {
        this.#forget(key, load);
        load.abort.abort(new AppError("cancelled", `Nobody waits for the data set ${dataSet.name} any more.`));
      }
    }
  }

  #start(key: string, dataSet: DataSet): SharedLoad {
    const abort = new AbortController();
    const load: SharedLoad = { loaded: this.#load(dataSet, abort.signal), abort, waiting: 0 };
    const forget = (): void => this.#forget(key, load);
    // Its failure is that of those who wait.
    load.loaded.then(forget, forget);
    this.#loading.set(key, load);
    return load;
  }

  #forget(key: string, load: SharedLoad): void {
    if (this.#loading.get(key) === load) this.#loading.delete(key);
  }

  async #load(dataSet: DataSet, signal: AbortSignal): Promise<LoadedDataSet> {
    const { folder, clock, logger } = this.#options;
    let pod: DataPod | undefined;
    try {
      pod = await this.#findPod(dataSet.name);
      return await loadDataSet(dataSet, pod, {
        folder,
        clock,
        signal,
        onProgress: (progress) => logger.debug({ dataSet: dataSet.name, progress }, "loading data"),
      });
    } catch (error) {
      const place = error instanceof AppError ? error.place : undefined;
      if (!signal.aborted) logger.error({ error, dataSet: dataSet.name, place }, "the data cannot be loaded");
      throw outwardFault(error, dataSet.name, pod);
    }
  }

  async #findPod(name: string): Promise<DataPod> {
    const { dataFile } = this.#options;
    const pods = dataFile === undefined ? { dataSets: {} } : await readDataPods(dataFile);
    const pod = pods.dataSets[name];
    if (pod !== undefined) return pod;
    throw new AppError(
      "configuration_invalid",
      `This party has no data for data set "${name}": name its files in the agent's data file.`,
      { details: { known: Object.keys(pods.dataSets) } },
    );
  }
}

/** The result, unless the signal comes first: then its reason, while the work goes on. */
async function beforeAbort<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result> {
  let onAbort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(toAppError(signal.reason));
    signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
