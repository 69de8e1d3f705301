/** This steward's data: loaded when first asked for, and again when the files have changed (decision 11). */
import type { Clock } from "../lib/clock.ts";
import { holdFile, type FileHold } from "../lib/data/held-files.ts";
import { removeOutdatedWorlds } from "../lib/data/world-files.ts";
import { AppError, toAppError } from "../lib/errors.ts";
import type { DataSet } from "../lib/model/dataset.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import { readDataPods, type DataPod } from "./data/data-pods.ts";
import { latestContentHash, loadDataSet, removeOutdated, type LoadedDataSet } from "./data/load.ts";
import { outwardFault } from "./data/outward-fault.ts";

/** How data sources are opened. */
export interface DataSourcesOptions {
  /** The data file; absent at a party without data. */
  readonly dataFile: string | undefined;
  /** Where loaded data are kept. */
  readonly folder: string;
  /** Where sql-query keeps what it makes of them. */
  readonly worldFolder: string;
  /** See `LoadOptions`. */
  readonly temporaryBytes?: number;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A load that several may wait for; who leaves last ends it. */
interface SharedLoad {
  readonly loaded: Promise<LoadedDataSet>;
  readonly abort: AbortController;
  waiting: number;
}

/** A loaded data set whose file stays until it is released. */
export interface HeldDataSet extends LoadedDataSet {
  /** Removes what is outdated and needed by no run any more. */
  release(): Promise<void>;
}

const NO_HOLD: FileHold = { release: () => undefined };

/** A change of the data between loading and holding them; more in a row is no chance. */
const MAX_LOADS = 5;

/** What chains of this steward read. */
export class DataSources {
  readonly #options: DataSourcesOptions;
  readonly #loading = new Map<string, SharedLoad>();
  /** The content of each data set that was opened last. */
  readonly #latest = new Map<string, string>();

  constructor(options: DataSourcesOptions) {
    this.#options = options;
  }

  /** Where sql-query keeps what it makes of the data. */
  get worldFolder(): string {
    return this.#options.worldFolder;
  }

  /**
   * The data set as a file to query, as its files are now. Callers at once share one load, which ends when none waits any more.
   * Loaded files and worlds of earlier contents go as soon as no run holds them.
   *
   * @throws AppError `configuration_invalid` where this steward has no such data, `data_invalid` where they cannot be read
   * (without the paths, which only the log has), or what the signal was aborted with.
   */
  async open(dataSet: DataSet, signal: AbortSignal): Promise<HeldDataSet> {
    for (let loads = 0; loads < MAX_LOADS; loads++) {
      const loaded = await this.#share(dataSet, signal);
      // A file of the steward's own is neither locked nor removed.
      const hold = loaded.isMade ? holdFile(loaded.path) : NO_HOLD;
      if (hold === undefined) continue;
      this.#latest.set(loaded.name, loaded.contentHash);
      return { ...loaded, release: () => this.#release(loaded, hold) };
    }
    throw new AppError("data_invalid", `The files of the data set ${dataSet.name} change again and again. Ask later.`, {
      retryable: true,
    });
  }

  async #release({ name, isMade, ...released }: LoadedDataSet, hold: FileHold): Promise<void> {
    hold.release();
    const { folder, worldFolder } = this.#options;
    // Another agent of this steward may have loaded a newer one.
    const madeLast = isMade ? await latestContentHash(name, folder) : undefined;
    const contentHash = madeLast ?? this.#latest.get(name) ?? released.contentHash;
    if (isMade) await removeOutdated(name, folder, contentHash);
    await removeOutdatedWorlds(worldFolder, { name, contentHash });
  }

  async #share(dataSet: DataSet, signal: AbortSignal): Promise<LoadedDataSet> {
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
    const { folder, worldFolder, clock, logger, temporaryBytes } = this.#options;
    let pod: DataPod | undefined;
    try {
      pod = await this.#findPod(dataSet.name);
      const loaded = await loadDataSet(dataSet, pod, {
        folder,
        clock,
        signal,
        ...(temporaryBytes === undefined ? {} : { temporaryBytes }),
        onProgress: (progress) => logger.debug({ dataSet: dataSet.name, progress }, "loading data"),
      });
      await removeOutdatedWorlds(worldFolder, loaded);
      return loaded;
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
