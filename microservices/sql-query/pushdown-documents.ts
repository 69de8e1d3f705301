/** States of groups as the documents that sql-algorithm merges, and the frames that carry them instead of rows. */
import type { GroupedSummaryJson } from "../../lib/algorithms/grouped-json.ts";
import type { GroupingPlan } from "../../lib/algorithms/grouping-plan.ts";
import { STATE_FIELD } from "../../lib/algorithms/partial-states.ts";
import { BatchBuilder } from "../../lib/data/batch-builder.ts";
import { PARTIAL_STATES } from "../../lib/data/field-metadata.ts";
import type { FieldSpec } from "../../lib/data/field-types.ts";
import { encodeBatch, encodeSchema } from "../../lib/data/ipc.ts";
import { FRAME, type WriteFrame } from "./frames.ts";

/** One group, as it stands in a document. */
export type GroupState = GroupedSummaryJson["groups"][number];

/** Groups of all groupings: they are held until all values are known to be what is declared. */
export const MOST_GROUPS = 20_000;
/** Of all states, which are held at the same time. */
export const MOST_STATE_CHARACTERS = 8_000_000;
/** Of the states in one document. */
const DOCUMENT_CHARACTERS = 100_000;

/** Groups of a plan, packed into documents as they come. */
export class StateDocuments {
  readonly #plan: GroupingPlan;
  readonly #documents: string[] = [];
  #groups: GroupState[] = [];
  #groupCount = 0;
  #openCharacters = 0;
  #characters = 0;

  constructor(plan: GroupingPlan) {
    this.#plan = plan;
  }

  /** False where there are more than may be held. */
  add(group: GroupState): boolean {
    const characters = JSON.stringify(group).length;
    this.#characters += characters;
    if (++this.#groupCount > MOST_GROUPS || this.#characters > MOST_STATE_CHARACTERS) return false;
    if (this.#openCharacters > 0 && this.#openCharacters + characters > DOCUMENT_CHARACTERS) this.#close();
    this.#groups.push(group);
    this.#openCharacters += characters;
    return true;
  }

  /** All documents; none for no groups. */
  end(): readonly string[] {
    if (this.#groups.length > 0) this.#close();
    return this.#documents;
  }

  #close(): void {
    this.#documents.push(JSON.stringify(documentOf(this.#plan, this.#groups)));
    [this.#groups, this.#openCharacters] = [[], 0];
  }
}

function documentOf({ algorithms, groupings }: GroupingPlan, groups: GroupState[]): GroupedSummaryJson {
  return {
    version: 1,
    algorithms: algorithms.map(({ name }) => name),
    notMergeable: [],
    parameters: {},
    groupings: groupings.map(({ groupColumns, valueColumns }) => ({
      groupColumns: groupColumns.map(({ name, type }) => ({ name, type })),
      valueColumns: valueColumns.map(({ name, type }) => ({ name, type })),
    })),
    minimumGroupSize: 1,
    withheldGroups: 0,
    withheldBins: 0,
    withheldValues: 0,
    groups,
  };
}

/** Writes the documents out, for rows of these fields with this metadata; returns their number. */
export function writeStates(
  documents: readonly string[],
  fields: readonly FieldSpec[],
  metadata: ReadonlyMap<string, string>,
  write: WriteFrame,
): number {
  const builder = new BatchBuilder([STATE_FIELD], {
    metadata: new Map([...metadata, [PARTIAL_STATES, JSON.stringify(fields)]]),
    expectedRows: 1,
  });
  write(FRAME.schema, encodeSchema(builder.schema));
  for (const [index, document] of documents.entries()) {
    builder.append([document]);
    write(FRAME.batch, encodeBatch(builder.build()), index === documents.length - 1);
  }
  return documents.length;
}
