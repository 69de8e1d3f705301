/** The settings of sql-algorithm, set by the agent. `docs/configuration.md` lists them; a test compares. */
import { Type } from "@sinclair/typebox";
import { DEFAULT_SPILLED_BYTES } from "../../lib/algorithms/spilling-values.ts";

/** Names are environment variables. */
export const SqlAlgorithmSettings = Type.Object({
  DYNAMOS_MEDIAN_TEMP_BYTES: Type.Integer({
    default: DEFAULT_SPILLED_BYTES,
    minimum: 0,
    description: "most disk that the values of one answer's medians may use",
  }),
});
