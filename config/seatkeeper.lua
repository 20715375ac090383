-- Seatkeeper as a passdb of Dovecot: the daemon is asked after every right password. See dovecot-lua.conf.
--
-- Beside the policy server of dovecot.conf it has two advantages in IMAP, POP3 and submission: while the daemon doesn't
-- answer nobody gets in and nobody's password is called wrong, and a refusal is told as a matter for the administrator.

-- The [[listen.http]] of seatkeeper.toml.
local url = "http://127.0.0.1:8460/v1/check"

-- Dovecot's own login services pass a reason on and let nobody in with it (`nologin`). Others that ask Dovecot for
-- logins, as Postfix does, would take such an answer for a success: they are told a failure, without the reason.
local tells_reason = { imap = true, pop3 = true, submission = true, sieve = true }

local client

function script_init()
  client = dovecot.http.client({ request_absolute_timeout_msecs = 5000, max_attempts = 2 })
  return 0
end

function script_deinit()
end

local function quoted(text)
  return '"' .. tostring(text):gsub('[%c"\\\127]', function(c) return string.format("\\u%04x", c:byte()) end) .. '"'
end

local function ask(req)
  -- `doveadm auth test` and master logins are an administrator's work and take no seat.
  local is_test = req.service == "doveadm" or req:var_expand("%{master_user}") ~= ""
  local fields = {
    '"user": ' .. quoted(req.user),
    '"operation": ' .. (is_test and '"probe"' or '"login"'),
  }
  if req.service and req.service ~= "" then
    table.insert(fields, '"service": ' .. quoted(req.service))
  end
  if req.rip and tostring(req.rip) ~= "" then
    table.insert(fields, '"client_ip": ' .. quoted(req.rip))
  end
  local request = client:request({ url = url, method = "POST" })
  request:add_header("Content-Type", "application/json")
  request:set_payload("{" .. table.concat(fields, ", ") .. "}")
  return request:submit()
end

function auth_passdb_lookup(req)
  -- Without a mechanism nobody logs in: LMTP or an administrator looks whether the user exists. That costs no seat, and
  -- mail has been accepted by then.
  if req:var_expand("%{mech}") == "" then
    return dovecot.auth.PASSDB_RESULT_OK, { nopassword = "y" }
  end
  local ok, response = pcall(ask, req)
  if not ok then
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "Seatkeeper can't be asked: " .. tostring(response)
  end
  local payload = response:payload() or ""
  if response:status() ~= 200 then
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "Seatkeeper answers " .. response:status() .. " " .. payload
  end
  if payload:find('"allow":true', 1, true) then
    return dovecot.auth.PASSDB_RESULT_OK, { nopassword = "y" }
  end
  local message = payload:match('"message":"([^"]*)"') or payload
  req:log_info("Seatkeeper refuses: " .. message)
  if tells_reason[req.service] then
    return dovecot.auth.PASSDB_RESULT_OK, { nopassword = "y", nologin = "y", reason = message }
  end
  return dovecot.auth.PASSDB_RESULT_USER_DISABLED, message
end
