/** This steward's data: loaded when first asked for, and again when the files have changed (decision 11). */
import { existsSync } from "node:fs";
import type { Clock } from "../lib/clock.ts";
import { holdFile, type FileHold } from "../lib/data/held-files.ts";
import { removeOutdatedWorlds } from "../lib/data/world-files.ts";
import { AppError, toAppError } from "../lib/errors.ts";
import type { DataSet } from "../lib/model/dataset.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import { readDataPods, type DataPod, type DataPods } from "./data/data-pods.ts";
import {
  fileIdentity,
  latestContentHash,
  loadDataSet,
  removeOutdated,
  sourcesIdentity,
  type LoadedDataSet,
} from "./data/load.ts";
import { outwardFault } from "./data/outward-fault.ts";
import { beforeAbort, Turns } from "./data/turns.ts";

/** How data sources are opened. */
export interface DataSourcesOptions {
  /** The data file; absent at a party without data. */
  readonly dataFile: string | undefined;
  /** Where loaded data are kept. */
  readonly folder: string;
  /** Where sql-query keeps what it makes of them. */
  readonly worldFolder: string;
  /** See `LoadOptions`. */
  readonly mostBytes?: number;
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
  /** Removes what is outdated and needed by no run any more. Called again, it only says how that went. */
  release(): Promise<void>;
}

const NO_HOLD: FileHold = { release: () => undefined };

/** One hold that several runs share. */
interface SharedHold {
  readonly hold: FileHold;
  runs: number;
}

/** What was loaded of files that were as this identity says, declared like this. */
interface KnownLoad {
  readonly declaration: string;
  readonly identity: string;
  readonly loaded: LoadedDataSet;
  readonly atMs: number;
}

/** Of unchanged files it is taken on trust for so long that what was made of them is in order, and nothing beside it. */
const TRUSTED_MS = 1_000;

/** A change of the data between loading and holding them; more in a row is no chance. */
const MAX_LOADS = 5;

/** What chains of this steward read. */
export class DataSources {
  readonly #options: DataSourcesOptions;
  readonly #loading = new Map<string, SharedLoad>();
  readonly #duckdbTurns = new Turns();
  /** The content of each data set that was opened last. */
  readonly #latest = new Map<string, string>();
  /** By data set: of one that is declared anew, what was known before says nothing any more. */
  readonly #known = new Map<string, KnownLoad>();
  /** By path and content. */
  readonly #holds = new Map<string, SharedHold>();
  /** The data file as it was read last. */
  #pods: { readonly identity: string; readonly pods: DataPods } | undefined;

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
      const hold = this.#hold(loaded);
      if (hold === undefined) {
        this.#known.delete(dataSet.name);
        continue;
      }
      this.#latest.set(loaded.name, loaded.contentHash);
      // Once: a second time would take the reference of another run.
      let released: Promise<void> | undefined;
      return { ...loaded, release: () => (released ??= this.#release(loaded, hold)) };
    }
    throw new AppError("data_invalid", `The files of the data set ${dataSet.name} change again and again. Ask later.`, {
      retryable: true,
    });
  }

  /** Undefined where it is gone. */
  #hold(loaded: LoadedDataSet): SharedHold | undefined {
    const { path, isMade } = loaded;
    const key = holdKey(loaded);
    const known = this.#holds.get(key);
    if (known !== undefined && (!isMade || existsSync(path))) {
      known.runs += 1;
      return known;
    }
    // A file of the steward's own is neither locked nor removed.
    const hold = isMade ? holdFile(path) : NO_HOLD;
    if (hold === undefined) return undefined;
    const shared = { hold, runs: 1 };
    this.#holds.set(key, shared);
    return shared;
  }

  /** The last run with a content looks for what is outdated: before that, nothing of it could go. */
  async #release(loaded: LoadedDataSet, shared: SharedHold): Promise<void> {
    shared.runs -= 1;
    if (shared.runs > 0) return;
    const key = holdKey(loaded);
    if (this.#holds.get(key) === shared) this.#holds.delete(key);
    shared.hold.release();
    const { name, isMade, ...released } = loaded;
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
    const key = keyOf(dataSet);
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
    const { folder, worldFolder, clock, logger, mostBytes, temporaryBytes } = this.#options;
    const declaration = keyOf(dataSet);
    let pod: DataPod | undefined;
    try {
      pod = await this.#findPod(dataSet.name);
      const identity = await sourcesIdentity(dataSet, pod);
      const known = this.#known.get(dataSet.name);
      const isSame = known?.declaration === declaration && known.identity === identity;
      if (isSame && clock.now() - known.atMs < TRUSTED_MS) return known.loaded;
      const loaded = await loadDataSet(dataSet, pod, {
        folder,
        clock,
        signal,
        ...(mostBytes === undefined ? {} : { mostBytes }),
        ...(temporaryBytes === undefined ? {} : { temporaryBytes }),
        duckdbTurns: this.#duckdbTurns,
        onProgress: (progress) => logger.debug({ dataSet: dataSet.name, progress }, "loading data"),
      });
      await removeOutdatedWorlds(worldFolder, loaded);
      this.#known.delete(dataSet.name);
      if (identity !== undefined) this.#known.set(dataSet.name, { declaration, identity, loaded, atMs: clock.now() });
      return loaded;
    } catch (error) {
      const place = error instanceof AppError ? error.place : undefined;
      if (!signal.aborted) logger.error({ error, dataSet: dataSet.name, place }, "the data cannot be loaded");
      throw outwardFault(error, dataSet.name, pod);
    }
  }

  async #readPods(dataFile: string): Promise<DataPods> {
    const identity = await fileIdentity(dataFile);
    if (this.#pods?.identity !== identity) this.#pods = { identity, pods: await readDataPods(dataFile) };
    return this.#pods.pods;
  }

  async #findPod(name: string): Promise<DataPod> {
    const { dataFile } = this.#options;
    const pods = dataFile === undefined ? { dataSets: {} } : await this.#readPods(dataFile);
    const pod = pods.dataSets[name];
    if (pod !== undefined) return pod;
    throw new AppError(
      "configuration_invalid",
      `This party has no data for data set "${name}": name its files in the agent's data file.`,
      { details: { known: Object.keys(pods.dataSets) } },
    );
  }
}

function keyOf(dataSet: DataSet): string {
  return JSON.stringify(dataSet);
}

function holdKey({ path, contentHash }: LoadedDataSet): string {
  return JSON.stringify([path, contentHash]);
}
