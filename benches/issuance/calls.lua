-- wrk script: POSTs the bodies of the file CALLS, one a line, in turn, to the path in the URL. With PACE_MS each connection rests
-- that many milliseconds on average between an answer and its next request. Prints one line of JSON.
local pace = tonumber(os.getenv("PACE_MS") or "")
local headers = { ["Content-Type"] = "application/json", ["X-Vault-Token"] = os.getenv("VAULT_TOKEN") }
local calls, turn = {}, 0

function init()
   for body in io.lines(os.getenv("CALLS")) do
      calls[#calls + 1] = wrk.format("POST", wrk.path, headers, body)
   end
end

function request()
   turn = turn % #calls + 1
   return calls[turn]
end

if pace then
   function delay()
      return math.random(0, 2 * pace)
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      'RESULT {"answers": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failures": "connect %d, read %d, write %d, status %d, timeout %d", "errors": %d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
