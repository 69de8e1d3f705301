/** sql-algorithm: computes what the question asks for over the rows of one stream. */
import { isOptionOn } from "../../lib/model/data-request.ts";
import { onlyInput } from "../../sdk/typescript/only-input.ts";
import { runMicroservice } from "../../sdk/typescript/microservice.ts";
import { GROUPS_QUESTION, ROWS_QUESTION } from "../../sdk/typescript/rehearsal-data.ts";
import { runAlgorithm } from "./algorithm.ts";
import { rulesOf } from "./allowed.ts";
import { SqlAlgorithmSettings } from "./config.ts";

void runMicroservice({
  name: "sql-algorithm",
  rehearsal: { requests: [ROWS_QUESTION, GROUPS_QUESTION] },
  handle: (inputs, { request, grants, settings, signal }) =>
    runAlgorithm(onlyInput(inputs), {
      request,
      rules: rulesOf(grants),
      withSummary: isOptionOn(request.options, "summary"),
      spilling: { maximumSpilledBytes: settings(SqlAlgorithmSettings).DYNAMOS_MEDIAN_TEMP_BYTES },
      signal,
    }),
});
