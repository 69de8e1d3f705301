/** What a microservice is, for its author: a handler from input streams to outputs, and what it knows. */
import type { Static, TObject } from "@sinclair/typebox";
import type { RecordBatch, Schema } from "apache-arrow";
import type { AppError } from "../../lib/errors.ts";
import type { MicroservicePosition } from "../../lib/jobs/chain-environment.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import type { Grant } from "../../lib/model/grant.ts";
import type { AttachmentContent } from "../../lib/rpc/frames.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";

/** One stream that comes in: from the element before, or, in the first element at a third party, one per data provider. */
export interface InputStream {
  /** Whose stream it is. */
  readonly provider: string;
  /** Absent in a chain's first element at a data provider, which makes the rows itself. */
  readonly schema: Schema | undefined;
  /** The provider's grant, checked. Behind a joiner: this party's own. */
  readonly grant: Grant | undefined;
  /**
   * Why this provider sends nothing, where the request allows partial answers. Otherwise an input that fails fails the
   * chain, and reading it throws.
   */
  readonly failure: AppError | undefined;
  /** Its batches, once, each read when the handler asks for it. */
  readonly batches: AsyncIterable<RecordBatch>;
  /** After the last batch: what the elements before had to say about the rows. Rejects when the stream fails. */
  notes(): Promise<Notes>;
}

/** What is to be said about a result: `withheldGroups`, `minimumGroupSize`, `providers`, … JSON values. */
export type Notes = Readonly<Record<string, unknown>>;

/**
 * What a handler yields: first the schema, exactly once; then the rest in any order. `notes` are merged into the result's
 * (over those of a single input). Attachments of all inputs go on by themselves.
 */
export type Output =
  | { readonly schema: Schema }
  | {
      readonly batch: RecordBatch;
      /**
       * Says that the batch, and the schema, are an input's own, and nothing of either was changed, in place neither: its bytes then go on
       * as they came, without being written and compressed again.
       */
      readonly isUnchanged?: true;
    }
  | { readonly attachment: AttachmentContent }
  | { readonly notes: Notes };

/** A granted data set as a file that this microservice can read. */
export interface DataLocation {
  /** A SQLite file, or a DuckDB database where its name ends in `.duckdb`, which is this data set's engine then; read-only. */
  readonly path: string;
  /** Changes with its content. */
  readonly contentHash: string;
}

/** What a handler knows. */
export interface MicroserviceContext {
  readonly requestId: string;
  /** The analyst's question, without who asks. */
  readonly request: DataRequest;
  /** This party's own grant, checked. */
  readonly grant: Grant;
  /** All grants under which this runs, checked: one's own first, then (at a third party) those of the providers. */
  readonly grants: readonly Grant[];
  /** The largest minimum group size of all grants: smaller groups are withheld. */
  readonly minimumGroupSize: number;
  /**
   * Where the granted data are, by data set. Only a chain's first microservice gets any, and only where a microservice of the
   * chain says that it `needs` data.
   */
  readonly data: Readonly<Record<string, DataLocation>>;
  /** The place in the chain. */
  readonly position: MicroservicePosition;
  /** Aborted at cancel and deadline, and when an element before or after fails. Pass it to whatever waits. */
  readonly signal: AbortSignal;
  readonly logger: Logger;
  /** Settings from the environment, checked; `configuration_invalid` lists all faults. */
  readonly settings: <Settings extends TObject>(schema: Settings) => Static<Settings>;
}

/** From inputs to outputs. It may throw: the error's code reaches the analyst. It must not hold more than a few batches. */
export type Handler = (inputs: readonly InputStream[], context: MicroserviceContext) => AsyncIterable<Output>;

/** A microservice. */
export interface MicroserviceDefinition {
  /** As in its metadata. */
  readonly name: string;
  readonly handle: Handler;
  /** How it rehearses where it is started ahead of its request (`rehearsal.ts`); absent: it does not. */
  readonly rehearsal?: Rehearsal;
}

/** What is run through a microservice before there is a request: over the data set of `rehearsal-data.ts`. */
export interface Rehearsal {
  /** One run each, in this order. */
  readonly requests: readonly DataRequest[];
  /** Rows that each input brings. Default: all. */
  readonly rows?: number;
  /** Of a microservice that reads data itself: the data set as its file. Its inputs then bring no rows. */
  readonly openData?: () => Promise<RehearsalData>;
}

/** Files that are there until they are closed. */
export interface RehearsalData {
  /** As {@link MicroserviceContext.data}. */
  readonly locations: Readonly<Record<string, DataLocation>>;
  close(): Promise<void>;
}
