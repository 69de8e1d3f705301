/**
 * Keeps what instruments measure: a provider for the OpenTelemetry metrics API (https://opentelemetry.io/docs/specs/otel/metrics/api/),
 * cumulative, in memory bounded by the number of instruments and label sets. Why not the SDK: docs/decisions/0011.
 *
 * An instrument that is made again under its name is the same instrument: parts of one process add to one figure.
 */
import type {
  Attributes,
  BatchObservableCallback,
  Counter,
  Gauge,
  Histogram,
  Meter,
  MeterProvider,
  MetricOptions,
  Observable,
  ObservableCallback,
  UpDownCounter,
} from "@opentelemetry/api";
import { AppError } from "../errors.ts";

/** What kind of figure a metric is; an `upDownCounter` is shown as a gauge. */
export type MetricKind = "counter" | "gauge" | "histogram" | "upDownCounter";

/** One figure with its labels. */
export interface NumberPoint {
  readonly attributes: Attributes;
  readonly value: number;
}

/** One distribution with its labels. */
export interface HistogramPoint {
  readonly attributes: Attributes;
  readonly count: number;
  readonly sum: number;
  /** Per bucket, not cumulative; one more than there are bounds: the last has what is greater than all. */
  readonly bucketCounts: readonly number[];
}

/** A metric as it is at one moment. */
export type MetricSnapshot = {
  readonly name: string;
  readonly unit: string;
  readonly description: string;
} & (
  | { readonly kind: Exclude<MetricKind, "histogram">; readonly points: readonly NumberPoint[] }
  | { readonly kind: "histogram"; readonly bounds: readonly number[]; readonly points: readonly HistogramPoint[] }
);

/** Label sets of one instrument; what is beyond them counts together, under the label that OpenTelemetry has for it. */
const MAX_LABEL_SETS = 500;
const OVERFLOW: Attributes = { "otel.metric.overflow": true };
/** Seconds, from a quick answer to the longest request. */
const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600];
/** The boundaries that OpenTelemetry's specification has where an instrument says none. */
const PLAIN = [0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000];

/** See the file comment. Every meter's name gives the same meter: there is one. */
export class MetricRegistry implements MeterProvider {
  readonly #instruments = new Map<string, Instrument>();
  readonly #observations = new Map<object, Observation>();
  readonly #meter: Meter;

  constructor() {
    const make =
      <Made>(kind: MetricKind) =>
      (name: string, options: MetricOptions = {}): Made =>
        this.#instrument(name, kind, options) as unknown as Made;
    this.#meter = {
      createCounter: make<Counter>("counter"),
      createUpDownCounter: make<UpDownCounter>("upDownCounter"),
      createGauge: make<Gauge>("gauge"),
      createHistogram: make<Histogram>("histogram"),
      createObservableCounter: make<Observable>("counter"),
      createObservableGauge: make<Observable>("gauge"),
      createObservableUpDownCounter: make<Observable>("upDownCounter"),
      addBatchObservableCallback: (callback) => this.#observeBatch(callback),
      removeBatchObservableCallback: (callback) => void this.#observations.delete(callback),
    };
  }

  getMeter(): Meter {
    return this.#meter;
  }

  /**
   * All metrics by name, after asking the observables. A callback that fails, or is not done after `limitMs`, leaves its
   * observables without points: no figure rather than an old one.
   */
  async collect(limitMs: number): Promise<readonly MetricSnapshot[]> {
    await withinTime(Promise.all([...this.#observations.values()].map((each) => each.run())), limitMs);
    return [...this.#instruments.values()]
      .map((instrument) => instrument.snapshot())
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  #instrument(name: string, kind: MetricKind, options: MetricOptions): Instrument {
    const known = this.#instruments.get(name);
    if (known !== undefined && known.kind === kind) return known;
    if (known !== undefined) {
      throw new AppError("conflict", `The metric ${name} is a ${known.kind}, and cannot be a ${kind} too.`);
    }
    const instrument = new Instrument(name, kind, options, {
      add: (callback, made) => this.#observeOne(callback, made),
      remove: (callback) => void this.#observations.delete(callback),
    });
    this.#instruments.set(name, instrument);
    return instrument;
  }

  #observeOne(callback: ObservableCallback, instrument: Instrument): void {
    const observation = new Observation((observe) =>
      callback({ observe: (value, attributes = {}) => observe(instrument, value, attributes) }),
    );
    this.#observations.set(callback, observation);
  }

  #observeBatch(callback: BatchObservableCallback): void {
    const observation = new Observation((observe) =>
      callback({
        observe: (observable, value, attributes = {}) =>
          observe(observable as unknown as Instrument, value, attributes),
      }),
    );
    this.#observations.set(callback, observation);
  }
}

type Observe = (instrument: Instrument, value: number, attributes: Attributes) => void;

/** One callback: what it told last time goes when it is asked again; one that hangs is not asked again before it has ended. */
class Observation {
  readonly #ask: (observe: Observe) => void | Promise<void>;
  /** What takes back each figure that it told. */
  readonly #told: (() => void)[] = [];
  #running: Promise<void> | undefined;

  constructor(ask: (observe: Observe) => void | Promise<void>) {
    this.#ask = ask;
  }

  run(): Promise<void> {
    return (this.#running ??= this.#replace().finally(() => (this.#running = undefined)));
  }

  async #replace(): Promise<void> {
    this.#takeBack();
    try {
      await this.#ask((instrument, value, attributes) => this.#told.push(instrument.set(value, attributes)));
    } catch {
      // A gap in the figures; why is told by the readiness of what was asked.
      this.#takeBack();
    }
  }

  #takeBack(): void {
    for (const takeBack of this.#told.splice(0)) takeBack();
  }
}

async function withinTime(work: Promise<unknown>, limitMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limitMs);
  });
  await Promise.race([work, limit]);
  clearTimeout(timer);
}

interface Point {
  readonly attributes: Attributes;
  /** The figure; of a histogram its sum. */
  value: number;
  count: number;
  readonly bucketCounts: number[];
}

interface Callbacks {
  add(callback: ObservableCallback, instrument: Instrument): void;
  remove(callback: ObservableCallback): void;
}

/** Every kind of instrument at once; the API's types show of it what the kind has. */
class Instrument {
  readonly kind: MetricKind;
  readonly #name: string;
  readonly #options: MetricOptions;
  readonly #bounds: readonly number[];
  readonly #callbacks: Callbacks;
  readonly #points = new Map<string, Point>();

  constructor(name: string, kind: MetricKind, options: MetricOptions, callbacks: Callbacks) {
    this.kind = kind;
    this.#name = name;
    this.#options = options;
    this.#callbacks = callbacks;
    const usual = options.unit === "s" ? SECONDS : PLAIN;
    this.#bounds = kind === "histogram" ? (options.advice?.explicitBucketBoundaries ?? usual) : [];
  }

  /** Of counters. What would make a counter fall is no measurement, and is left out. */
  add(value: number, attributes: Attributes = {}): void {
    if (!Number.isFinite(value) || (value < 0 && this.kind === "counter")) return;
    this.#point(attributes).value += value;
  }

  /** Of gauges and histograms. */
  record(value: number, attributes: Attributes = {}): void {
    if (!Number.isFinite(value)) return;
    if (this.kind !== "histogram") return void this.set(value, attributes);
    const point = this.#point(attributes);
    const bucket = this.#bounds.findIndex((bound) => value <= bound);
    const index = bucket < 0 ? this.#bounds.length : bucket;
    point.bucketCounts[index] = (point.bucketCounts[index] ?? 0) + 1;
    point.count += 1;
    point.value += value;
  }

  /** Of gauges and observables; returns what takes the figure back. */
  set(value: number, attributes: Attributes): () => void {
    if (!Number.isFinite(value)) return () => undefined;
    this.#point(attributes).value = value;
    return () => void this.#points.delete(keyOf(attributes));
  }

  addCallback(callback: ObservableCallback): void {
    this.#callbacks.add(callback, this);
  }

  removeCallback(callback: ObservableCallback): void {
    this.#callbacks.remove(callback);
  }

  snapshot(): MetricSnapshot {
    const { unit = "", description = "" } = this.#options;
    const about = { name: this.#name, unit, description };
    const points = [...this.#points.values()];
    return this.kind === "histogram"
      ? {
          ...about,
          kind: this.kind,
          bounds: this.#bounds,
          points: points.map(({ value, bucketCounts, ...rest }) => ({
            ...rest,
            sum: value,
            bucketCounts: [...bucketCounts],
          })),
        }
      : {
          ...about,
          kind: this.kind,
          points: points.map(({ attributes, value }) => ({ attributes, value })),
        };
  }

  #point(attributes: Attributes): Point {
    const key = keyOf(attributes);
    const known = this.#points.get(key);
    if (known !== undefined) return known;
    if (this.#points.size >= MAX_LABEL_SETS && attributes !== OVERFLOW) return this.#point(OVERFLOW);
    const bucketCounts = this.kind === "histogram" ? new Array<number>(this.#bounds.length + 1).fill(0) : [];
    const point: Point = { attributes: { ...attributes }, value: 0, count: 0, bucketCounts };
    this.#points.set(key, point);
    return point;
  }
}

/** The same for the same labels, in whatever order they come. */
function keyOf(attributes: Attributes): string {
  return JSON.stringify(Object.entries(attributes).sort(([a], [b]) => (a < b ? -1 : 1)));
}
